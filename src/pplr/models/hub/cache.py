"""The folder of pulled models, in which a model is either whole or absent.

    CACHE/models/NAME/            config.json, model.safetensors, tokenizer files, manifest.json
    CACHE/models/.staging/NAME/   what is being put together; left over only by a process that was killed
    CACHE/models/.locks/NAME      held by the process that puts NAME together

A model is put together in the staging folder and renamed into its place in one step. The operating system releases the
lock of a process that dies, so whoever takes it next may clear the staging folder.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from pplr.errors import ConfigError
from pplr.models.hub.storage import storage_errors

_STAGING = ".staging"
_LOCKS = ".locks"
_REPLACED = "replaced"
_NEW = "new"


def cache_folder() -> Path:
    """Return the cache of pplr: `$PPLR_CACHE`, else `$XDG_CACHE_HOME/pplr`, else `~/.cache/pplr`.

    Raises:
        ConfigError: the variable holds a relative path, which would mean another folder in every directory.
    """
    for variable, below in (("PPLR_CACHE", "."), ("XDG_CACHE_HOME", "pplr")):
        value = os.environ.get(variable)
        if value:
            path = Path(value).expanduser()
            if not path.is_absolute():
                raise ConfigError(f"{variable} is '{value}', a relative path. Set it to an absolute path.")
            return path / below
    return Path.home() / ".cache" / "pplr"


def models_folder() -> Path:
    """Return the folder of pulled models; it need not exist."""
    return cache_folder() / "models"


def model_folder(name: str) -> Path:
    """Return where the model `name` is when it has been pulled; `organisation/model` becomes one folder name."""
    return models_folder() / name.replace("/", "--")


def pulled_folders() -> list[Path]:
    """Return the folders of all pulled models, by name; none of them has been verified."""
    folder = models_folder()
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


@contextmanager
def staging(name: str, progress: Callable[[str], None]) -> Iterator[Path]:
    """Yield an empty staging folder for `name`, which no other process uses until the block ends.

    Waits while another process stages the same model. The folder is gone afterwards.

    Raises:
        StorageError: the cache is full or cannot be written.
    """
    models, key = models_folder(), model_folder(name).name
    folder = models / _STAGING / key
    with storage_errors(models, f"preparing to pull {name}"):
        (models / _LOCKS).mkdir(parents=True, exist_ok=True)
        lock = FileLock(models / _LOCKS / key)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            progress(f"Another process is pulling {name}: waiting for it.")
            lock.acquire()
    try:
        with storage_errors(models, f"pulling {name}"):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()


def new_folder(stage: Path) -> Path:
    """Return the folder inside a staging folder in which the model is put together, created empty."""
    folder = stage / _NEW
    folder.mkdir()
    return folder


def install(stage: Path, name: str) -> Path:
    """Move what `new_folder(stage)` holds to the place of `name`, replacing what is there; return that place."""
    target = model_folder(name)
    if target.exists():
        target.rename(stage / _REPLACED)
    (stage / _NEW).rename(target)
    return target
