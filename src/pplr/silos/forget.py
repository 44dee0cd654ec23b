"""A silo leaves a run for good: its row goes from the checkpoints, and it is asked no more."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from pplr import run_folder
from pplr.config import load_config
from pplr.errors import RunError, nearest
from pplr.federation.audit_log import AuditLog, Head
from pplr.federation.checkpoints import Checkpoint, CheckpointStore
from pplr.federation.intake import row_digest
from pplr.models.parts.settings import SplitPlacement
from pplr.run_folder import CHECKPOINTS, CONFIG, FORGOTTEN
from pplr.silos.processes import LETTING_GO
from pplr.storage import write_text


def forgotten(folder: Path) -> tuple[str, ...]:
    """Return the silos that a run was told to forget.

    Raises:
        RunError: the file that names them is damaged.
    """
    path = folder / FORGOTTEN
    if not path.is_file():
        return ()
    try:
        return tuple(str(name) for name in json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as problem:
        raise RunError(
            f"{path} is damaged ({problem}). It is a JSON list of silos that have left: mend it."
        ) from problem


def forget(folder: Path, silo: str, waiting: Callable[[], None] = lambda: None) -> int:
    """Take a silo out of a run that stands still; return how many silos are left.

    A coordinator that trains right now is given some time to end; `waiting` is called before.

    What the others' rows have learned from it stays in them, and its digests and figures of past rounds in the log. A trunk's
    server deletes what it has of it when the run goes on.

    Raises:
        RunError: the run goes on right now, is no run over silos, has no such silo, or has no other.
    """
    if not run_folder.of_silos(folder):
        raise RunError(f"{folder} is no run over silos, so there is no silo to forget in it.")
    with run_folder.held(folder, LETTING_GO, waiting):
        store = CheckpointStore(folder / CHECKPOINTS)
        newest = store.newest()
        if silo not in newest.clients:
            raise RunError(f"There is no silo {silo!r} in this run.{nearest(silo, newest.clients)}")
        if len(newest.clients) == 1:
            raise RunError(f"{silo} is the only silo of this run. Delete {folder} instead.")
        known = newest.state.get("audit")
        log = AuditLog(folder)
        log.go_on(None if known is None else Head.parse(known))
        write_text(folder / FORGOTTEN, json.dumps(sorted({*forgotten(folder), silo})))
        row = newest.rows[newest.clients.index(silo)]
        log.append("forgotten", {"client": silo, "sha256": row_digest(row), "after_round": newest.round})
        for kept in store.all():  # the newest last: until then the command can be given again
            store.save(without(kept, silo))
    return len(newest.clients) - 1


def trunk_server(folder: Path) -> str | None:
    """Return the address of the server of a run's trunk, which has a row of each silo too; None where there is none."""
    placement = load_config(folder / CONFIG).placement
    return placement.server if isinstance(placement, SplitPlacement) else None


def without(checkpoint: Checkpoint, silo: str) -> Checkpoint:
    """Return a checkpoint in which nothing is kept of a silo but what past rounds tell of it."""
    stay = np.array([name != silo for name in checkpoint.clients])
    return replace(
        checkpoint,
        rows=checkpoint.rows[torch.from_numpy(stay)],
        clients=tuple(name for name in checkpoint.clients if name != silo),
        engine={name: kept for name, kept in checkpoint.engine.items() if not name.startswith(f"{silo}/")},
    )
