"""A round's state on disk: whole or not there, verified when it is read."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pplr.errors import CheckpointError
from pplr.federation.audit_log import Head
from pplr.storage import BEFORE, bring_back, file_digest, write_folder

VERSION = 1
SERVER = "server.safetensors"
NAME = re.compile(r"round-(\d{4,})")


@dataclass(frozen=True)
class Checkpoint:
    """All that a run needs to go on after a round.

    Attributes:
        round: the last finished round.
        rows: [clients, S] the bank after mixing.
        clients: client names, one per row.
        engine: what the engine keeps for the clients.
        state: the coordinator's numbers, as JSON.
        server: what the strategy's aggregator remembers.
    """

    round: int
    rows: Tensor
    clients: tuple[str, ...]
    engine: dict[str, Tensor]
    state: dict[str, Any]
    server: dict[str, Tensor] = field(default_factory=dict)


class CheckpointStore:
    """The folder `checkpoints` of a run: `round-0007` and so on, of which the newest two are kept."""

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self._folder = folder
        self._keep = keep

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint and delete those that are older than the newest `keep`.

        Raises:
            StorageError: the disk is full or not writable; older checkpoints are then still there.
        """

        def fill(folder: Path) -> None:
            save_file({"rows": checkpoint.rows.contiguous().cpu()}, folder / "bank.safetensors")
            save_file(_written(checkpoint.engine), folder / "clients.safetensors")
            if checkpoint.server:
                save_file(_written(checkpoint.server), folder / SERVER)
            (folder / "progress.json").write_text(json.dumps(checkpoint.state), encoding="utf-8")
            manifest = {
                "version": VERSION,
                "round": checkpoint.round,
                "clients": checkpoint.clients,
                "sha256": {path.name: file_digest(path) for path in sorted(folder.iterdir())},
            }
            (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")

        write_folder(self._folder / f"round-{checkpoint.round:04d}", fill)
        for number in self.rounds()[: -self._keep]:
            shutil.rmtree(self._folder / f"round-{number:04d}", ignore_errors=True)

    def rounds(self) -> list[int]:
        """Return the rounds of which there is a checkpoint, oldest first."""
        if not self._folder.is_dir():
            return []
        for before in self._folder.glob(f".round-*{BEFORE}"):
            bring_back(self._folder / before.name.removeprefix(".").removesuffix(BEFORE))
        matches = (NAME.fullmatch(path.name) for path in self._folder.iterdir())
        return sorted(int(match[1]) for match in matches if match)

    def newest(self) -> Checkpoint:
        """Return the newest checkpoint.

        Raises:
            CheckpointError: there is none, or it is damaged.
        """
        rounds = self.rounds()
        if not rounds:
            raise CheckpointError(
                f"There is no checkpoint in {self._folder}: no round was finished. Start again without --resume, "
                "with --overwrite or another --out."
            )
        return self._load(rounds[-1])

    def all(self) -> list[Checkpoint]:
        """Return the checkpoints that are kept, oldest first.

        Raises:
            CheckpointError: one is damaged.
        """
        return [self._load(number) for number in self.rounds()]

    def audited(self) -> dict[str, Head]:
        """Return the heads of the audit log that the checkpoints hold, by words for where they are.

        Raises:
            CheckpointError: a checkpoint is damaged.
        """
        found = {}
        for number in self.rounds():
            known = self._load(number).state.get("audit")
            if known is not None:
                found[f"the checkpoint of round {number}"] = Head.parse(known)
        return found

    def _load(self, number: int) -> Checkpoint:
        folder = self._folder / f"round-{number:04d}"
        try:
            manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
            if manifest["version"] != VERSION:
                raise CheckpointError(
                    f"The checkpoint {folder} has version {manifest['version']}; this program reads version {VERSION}. "
                    "Use the program that wrote it, or start again in another folder."
                )
            for name, digest in manifest["sha256"].items():
                if file_digest(folder / name) != digest:
                    raise _damaged(folder, f"{name} is not what was written", self._others(folder))
            rows = load_file(folder / "bank.safetensors")["rows"]
            engine = load_file(folder / "clients.safetensors")
            state = json.loads((folder / "progress.json").read_text(encoding="utf-8"))
            server = load_file(folder / SERVER) if SERVER in manifest["sha256"] else {}
            return Checkpoint(manifest["round"], rows, tuple(manifest["clients"]), engine, state, server)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as problem:
            raise _damaged(folder, str(problem), self._others(folder)) from problem

    def _others(self, folder: Path) -> list[int]:
        return [number for number in self.rounds() if f"round-{number:04d}" != folder.name]


def _written(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.contiguous().cpu() for name, tensor in tensors.items()}


def _damaged(folder: Path, why: str, others: list[int]) -> CheckpointError:
    older = f" Delete that folder, and --resume goes on after round {others[-1]}." if others else ""
    return CheckpointError(
        f"The checkpoint {folder} is damaged ({why}).{older or ' It is the only one: start again without --resume.'}"
    )
