"""Models of a model hub, by `organisation/model`."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pplr.errors import ModelError, ModelUnavailable
from pplr.models.hub import storage
from pplr.models.hub.quiet import quiet_hub
from pplr.models.hub.registry import suggestion

_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")

# weights as safetensors, configuration and tokenizer; no pickles, no code, nothing in sub-folders
_WANTED = [
    "config.json",
    "generation_config.json",
    "model*.safetensors",
    "model.safetensors.index.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.model",
    "chat_template.jinja",
    "LICENSE*",
]
_UNWANTED = ["*/*", "*.py"]


def is_hub_id(name: str) -> bool:
    """Return whether `name` has the form `organisation/model`."""
    return _ID.fullmatch(name) is not None and "--" not in name and ".." not in name


def download(repository: str, folder: Path, progress: Callable[[str], None]) -> str:
    """Put the files of a hub model into the existing `folder`, and return the commit that they are of.

    What the hub client has in its own cache is shared (by hard links where the disk allows), not stored twice. With
    HF_HUB_OFFLINE=1 only that cache is asked.

    Raises:
        ModelError: its weights are published as pickles only.
        ModelUnavailable: the model does not exist, needs permission, or the hub is not reachable.
        StorageError: the disk is full.
    """
    from huggingface_hub import snapshot_download

    progress(f"Downloading {repository} from the model hub.")
    with _explained(repository, folder):
        snapshot = Path(snapshot_download(repository, allow_patterns=_WANTED, ignore_patterns=_UNWANTED))
    if not any(snapshot.glob("*.safetensors")):
        raise ModelError(
            f"'{repository}' is published without safetensors. Other formats can run any code when they are loaded, so "
            "pplr does not read them. Choose another model, or save this one elsewhere with save_pretrained and use "
            "that folder."
        )
    for path in sorted(snapshot.iterdir()):
        if path.is_file():
            _share(path.resolve(), folder / path.name)
    return snapshot.name


def download_config(repository: str) -> Path:
    """Return the folder of the hub client's cache that has the config.json of a hub model, fetched where needed.

    Raises:
        ModelUnavailable, StorageError: as `download`.
    """
    from huggingface_hub import constants, hf_hub_download

    with _explained(repository, Path(constants.HF_HUB_CACHE)):
        return Path(hf_hub_download(repository, "config.json")).parent


@contextmanager
def _explained(repository: str, folder: Path) -> Iterator[None]:
    """Turn what the hub client raises into a sentence."""
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, RepositoryNotFoundError

    with quiet_hub():
        try:
            yield
        except GatedRepoError as error:
            raise ModelUnavailable(
                f"The model hub gives '{repository}' only to people who accepted its terms. Accept them on the model's "
                "page, and set HF_TOKEN to a token of yours."
            ) from error
        except (RepositoryNotFoundError, HFValidationError) as error:
            raise ModelUnavailable(
                f"The model hub has no model '{repository}' that you may see. Check the spelling, "
                f"or set HF_TOKEN where it is private.{suggestion(repository)}"
            ) from error
        except (OSError, HfHubHTTPError, RuntimeError) as error:
            if storage.says_full(str(error)):
                raise storage.full(folder, f"downloading {repository}") from error
            raise ModelUnavailable(_unreachable(repository, error)) from error


def _share(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        # another disk, or a file system without hard links
        shutil.copyfile(source, target)


def _unreachable(repository: str, error: Exception) -> str:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    return (
        f"'{repository}' is not in the cache, and the model hub is not reachable ({reason}). On a machine that reaches "
        f"it, run `hf download {repository} --local-dir FOLDER`; copy FOLDER here, and use its path as the model's "
        f"name.{suggestion(repository)}"
    )
