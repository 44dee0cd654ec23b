"""The folder of a run: whose it is, what it was made from, and when it may be taken."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from pplr import config_history
from pplr.config import Config, changes, config_toml, load_config
from pplr.data.dataset import Dataset, Part
from pplr.errors import CannotResume, CheckpointError, ConfigError, InUse, Occupied, RunError, StorageError, command
from pplr.federation.audit_log import AUDIT_HEAD, AUDIT_LOG
from pplr.storage import delete, make_folder, write_text

MARK, CONFIG = config_history.MARK, config_history.CONFIG
EVENTS, METRICS, ROWS = "events.jsonl", "metrics.json", "rows.safetensors"
FUSION = "fusion.json"
"""Weights of each client's model and its own statistics, where clients have such."""
PER_USER, EXAMPLES, REPORT = "per_user.parquet", "examples.json", "report.html"
ADAPTERS, CHECKPOINTS = "adapters", "checkpoints"
FORGOTTEN = "forgotten.json"
"""Names of silos that have left for good, as a JSON list."""
LOCK = ".lock"
"""Held by the process that trains in the folder."""
OWNED = (
    METRICS,
    REPORT,
    ROWS,
    FUSION,
    PER_USER,
    EXAMPLES,
    ADAPTERS,
    CHECKPOINTS,
    AUDIT_LOG,
    AUDIT_HEAD,
    FORGOTTEN,
    EVENTS,
    CONFIG,
    MARK,
)
"""All that a run writes into its folder; nothing else in it is ever touched."""

ITEM_VECTORS = "item vectors"
"""What a run is also made from where a server has read the items with its language model."""

Origin = Mapping[str, str]
"""Digests of what a run is made from, by name: see `origin`."""


def origin(dataset: Dataset, model_digest: str, layout_digest: str) -> Origin:
    """Return digests of all that decides a run's result beside its configuration.

    They tell whether the files that a configuration names still hold what they held when the run began.
    """
    catalogue, training = dataset.catalogue, dataset.training()
    attributes = [text for name in sorted(catalogue.attributes) for text in (name, *catalogue.attributes[name])]
    times = dataset.training_times()
    users = _encoded((*dataset.user_ids, *(dataset.silos or ())))
    seen = [training.values.tobytes(), training.offsets.tobytes(), b"" if times is None else times.tobytes()]
    held_out = dataset.items.values[dataset.parts != Part.TRAIN]
    return {
        "items": _digest(_encoded((*catalogue.ids, *catalogue.titles, *attributes))),
        "training events": _digest([*users, *seen]),
        "held-out events": _digest([held_out.tobytes(), dataset.parts.tobytes()]),
        "model": model_digest,
        "parameters": layout_digest,
    }


def _encoded(texts: Iterable[str]) -> list[bytes]:
    return [text.encode() for text in texts]


def _digest(pieces: Iterable[bytes]) -> str:
    """Return the SHA-256 over the pieces, each preceded by its length so that no two lists look alike."""
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(len(piece).to_bytes(8, "little"))
        digest.update(piece)
    return digest.hexdigest()


def check(folder: Path, config: Config, *, resume: bool, overwrite: bool) -> None:
    """Refuse a folder that may not be written to; nothing is changed.

    Raises:
        RunError: it is a file, it holds something else, it is occupied, or its run has another configuration.
    """
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is a file, not a folder. Choose another --out.")
    _check_place(folder)
    if resume and overwrite:
        raise RunError("--resume goes on with a run and --overwrite deletes it: use one of them.")
    if (silo := silo_of(folder)) is not None:
        raise RunError(
            f"{folder} holds what the silo {silo} keeps of a run, for `pplr recommend` and `pplr evaluate`. Choose another --out."
        )
    occupied = (folder / MARK).is_file()
    if resume:
        if not occupied:
            raise CannotResume(f"There is no run in {folder} to resume. Start it without --resume.")
        _check_configuration(folder, config)
    elif occupied and not overwrite:
        raise Occupied(
            f"There is already a run in {folder}. Go on with it (--resume), replace it (--overwrite), or choose "
            "another folder (--out)."
        )
    elif not occupied and folder.is_dir() and any(path.name != LOCK for path in folder.iterdir()):
        raise RunError(f"{folder} is not empty and holds no run. Choose another --out.")


def _check_place(folder: Path) -> None:
    """Refuse a place where no folder can be made, before hours of work are done for it."""
    place = next(path for path in (folder, *folder.parents) if path.exists())
    if not place.is_dir():
        raise RunError(f"{place} is a file, so {folder} cannot be a folder. Choose another --out.")
    if not os.access(place, os.W_OK | os.X_OK):
        raise StorageError(f"{folder} cannot be written: this user may not write into {place}. Choose another --out.")


@contextmanager
def held(folder: Path, wait: float = 0.0, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Keep all other processes from training in the folder until the block ends; a process that dies lets go.

    One that trains there now is given `wait` seconds to end, which begin with a call of `waiting`.

    Raises:
        InUse: another process is training in it.
        StorageError: the folder cannot be made or written.
    """
    make_folder(folder)
    lock = FileLock(folder / LOCK)
    try:
        try:
            lock.acquire(timeout=0.0)
        except Timeout:
            if not wait:
                raise
            waiting()
            lock.acquire(timeout=wait)
    except Timeout as problem:
        raise InUse(
            f"Another process is training in {folder} right now. Wait for its end, or choose another folder (--out)."
        ) from problem
    except OSError as problem:
        raise StorageError(f"{folder} cannot be written: {problem.strerror}. Choose another --out.") from problem
    try:
        yield
    finally:
        lock.release()


def _check_configuration(folder: Path, config: Config) -> None:
    try:
        before = load_config(folder / CONFIG)
    except ConfigError as problem:
        raise CannotResume(
            f"The run in {folder} cannot be resumed, its {CONFIG} is missing or damaged: {problem} Start again with "
            "--overwrite, or in another folder (--out)."
        ) from problem
    if not (changed := changes(before, config)):
        return
    own = f"resume with the run's own {folder / CONFIG}"
    to_do = f"Take these changes back, {own}"
    written = tomllib.loads((folder / CONFIG).read_text(encoding="utf-8"))
    if earlier := [
        one for one in config_history.unsaid(written) if any(line.startswith(f"{one.name}: ") for line in changed)
    ]:
        whose = "in the configuration of every party, " if of_silos(folder) else ""
        to_do = (
            f"When it was started `pplr` {', and '.join(one.was for one in earlier)}. To go on, write "
            f"{' and '.join(map(str, earlier))}, {whose}and take other changes back{'' if whose else f', or {own}'}"
        )
    raise CannotResume(
        f"The run in {folder} was started with another configuration: {'; '.join(changed)}. {to_do}, or start a new run in "
        "another folder (--out)."
    )


def claim(folder: Path, config: Config, made_from: Origin, silo: str | None = None) -> None:
    """Make the folder this run's, or what a `silo` keeps of it: what an earlier run left goes, whatever else lies there stays.

    Raises:
        StorageError: the disk is full or not writable.
    """
    make_folder(folder)
    for name in OWNED:  # the mark goes last: until then the folder is still known as a run's
        delete(folder / name)
        delete(folder / f".{name}.partial")
    whose = {} if silo is None else {"silo": silo}
    mark = {"version": 1, "id": secrets.token_hex(16), **whose, "made_from": dict(made_from)}
    write_text(folder / MARK, json.dumps(mark, indent=1))
    write_text(folder / CONFIG, config_toml(config))


def check_origin(folder: Path, made_from: Origin, only: Iterable[str] | None = None) -> None:
    """Refuse to go on with a run whose data or model has changed since it began; `only` restricts what is compared.

    Raises:
        RunError: naming what has changed.
    """
    if changed := changed_since(folder, made_from, only):
        raise CannotResume(
            f"The {' and the '.join(changed)} that the run in {folder} was made from have changed since. Bring back the "
            f"files as they were, or start a new run in another folder (--out)."
        )


def check_rounds_kept(folder: Path) -> None:
    """Refuse to begin a run again that had finished rounds, where none of their checkpoints is left.

    Raises:
        CheckpointError: naming the last round that was finished.
    """
    done = _last_checkpoint(folder / EVENTS)
    if done is None and not (folder / METRICS).is_file():
        return
    reached = "had come to its end" if done is None else f"had finished round {done}"
    raise CheckpointError(
        f"The run in {folder} {reached}, but there is no checkpoint in {folder / CHECKPOINTS} to go on from. Bring that "
        "folder back from a copy, or start again with --overwrite or in another folder (--out)."
    )


def _last_checkpoint(events: Path) -> int | None:
    """Return the last round after which the log says that there was a checkpoint; None where it says of none."""
    last: int | None = None
    for line in events.read_text(encoding="utf-8", errors="replace").splitlines() if events.is_file() else []:
        try:
            event = json.loads(line)
        except ValueError:  # a process was killed while it wrote this line
            continue
        if isinstance(event, dict) and event.get("event") == "checkpoint":
            last = event.get("round")
    return last


def changed_since(folder: Path, made_from: Origin, only: Iterable[str] | None = None) -> list[str]:
    """Return the names of what a run was made from that is no longer the same.

    Raises:
        RunError: the mark is damaged.
    """
    path = folder / MARK
    try:
        before = json.loads(path.read_text(encoding="utf-8"))["made_from"]
        return [name for name in (only or made_from) if before[name] != made_from[name]]
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise CannotResume(
            f"{path} is missing or damaged ({problem}), so nobody can tell what the run was made from. Bring it back "
            "from a copy, or run again with --overwrite."
        ) from problem


def recorded(folder: Path, name: str) -> str | None:
    """Return one digest of what a run was made from; None where there is none, or the mark is damaged."""
    try:
        found = json.loads((folder / MARK).read_text(encoding="utf-8"))["made_from"].get(name)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return found if isinstance(found, str) else None


def identity(folder: Path) -> str:
    """Return what tells a run from all others, also from one that was there before it; "" where the mark says nothing."""
    try:
        found = json.loads((folder / MARK).read_text(encoding="utf-8")).get("id")
    except (OSError, ValueError, AttributeError):
        return ""
    return found if isinstance(found, str) else ""


def silo_of(folder: Path) -> str | None:
    """Return the silo whose result of a run over silos the folder holds; None where it holds a whole run."""
    try:
        found = json.loads((folder / MARK).read_text(encoding="utf-8")).get("silo")
    except (OSError, ValueError, AttributeError):
        return None
    return found if isinstance(found, str) else None


def of_silos(folder: Path) -> bool:
    """Return whether a folder is that of a run over silos, whose data, rows and figures of users stayed with them."""
    try:
        return "training events" not in json.loads((folder / MARK).read_text(encoding="utf-8"))["made_from"]
    except (OSError, ValueError, KeyError, TypeError):
        return False


def go_on(folder: Path) -> str:
    """Return what makes the files of a finished or interrupted run whole; nothing is trained twice."""
    if silo_of(folder) is not None or of_silos(folder):
        return (
            "Go on where its coordinator is, with `pplr coordinator run ... --resume` or, of a run on one machine, with "
            "`pplr run ... --resume`, while its silos run."
        )
    return f"Go on with `{command('pplr', 'run', folder / CONFIG, '--out', folder, '--resume')}`."
