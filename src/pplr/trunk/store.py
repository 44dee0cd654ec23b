"""The state of a trunk's server on disk, such that it can be killed at any moment and goes on where it was.

    agreement.json            what the rows belong to, and the clients' names
    now-12/state.safetensors  rows, best rows, moments where they are kept, and what was received in this round, as of the last
                              change of all rows
    now-12/clients/*          what each client's requests have changed since then: written after every step
    rounds/round-0007/        the state after a finished round, to which a run that is resumed goes back

A step's file is renamed into place, so that it is whole after a SIGKILL of the server; it is not flushed to the disk,
because after a loss of power the run goes back to its last finished round anyway.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Collection
from pathlib import Path
from urllib.parse import quote, unquote

from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from pplr.errors import CheckpointError
from pplr.storage import delete, make_folder, write_file, write_folder, write_text
from pplr.trunk.fields import Agreement
from pplr.trunk.rows import ServerRows

ROUNDS_KEPT = 3
STATE = "state.safetensors"


class Owner(BaseModel):
    """What a state belongs to.

    Attributes:
        agreement: the settings and the model that its rows fit.
        run: the run (see `run_digest`).
        clients: their names.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    agreement: Agreement
    run: str
    clients: tuple[str, ...]


class StateFolder:
    """A folder that belongs to one server.

    Attributes:
        folder: its path.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        make_folder(folder)

    def owner(self) -> Owner | None:
        """Return what the state belongs to, or None where there is no state.

        Raises:
            CheckpointError: the folder is damaged.
        """
        path = self.folder / "agreement.json"
        if not path.is_file():
            return None
        try:
            return Owner.model_validate_json(path.read_bytes())
        except ValueError as problem:
            raise _damaged(path, problem) from problem

    def begin(self, owner: Owner, rows: ServerRows) -> None:
        """Forget what is there, and keep the state of a new run."""
        for path in (self.folder / "agreement.json", self.folder / "rounds", *self._generations()):
            delete(path)
        self.save_all(rows)
        self.save_round(rows, 0)
        write_text(self.folder / "agreement.json", owner.model_dump_json(indent=1))

    def forget(self, owner: Owner, rows: ServerRows) -> None:
        """Go on with the clients of `owner` alone, whose rows these are: whatever is kept of others is deleted.

        What the requests of an unfinished round have changed goes too. Whoever was killed in the midst does it again.
        """
        write_text(self.folder / "agreement.json", owner.model_dump_json(indent=1))
        for path in self._rounds():
            try:
                state = load_file(path)
            except SafetensorError as problem:
                raise _damaged(path, problem) from problem
            stay = {name: row for name, row in state.items() if _whose(name) in owner.clients}
            if len(stay) < len(state):
                _write_state(path, stay)
        self.save_all(rows)
        for path in self.folder.rglob(".*.partial"):  # of a server that was killed while it wrote
            delete(path)

    def keeps_others_than(self, clients: Collection[str]) -> bool:
        """Return whether something is kept of a client that is none of these.

        Raises:
            CheckpointError: the folder is damaged.
        """
        kept = {unquote(path.stem) for path in self.folder.glob("now-*/clients/*.safetensors")}
        for path in (*self._rounds(), *sorted(self.folder.glob(f"now-*/{STATE}"))):
            try:
                with safe_open(path, "pt") as file:
                    kept |= {_whose(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            except SafetensorError as problem:
                raise _damaged(path, problem) from problem
        return not kept <= set(clients)

    def _rounds(self) -> list[Path]:
        """Return the files of the rounds that are kept, oldest first."""
        return sorted((self.folder / "rounds").glob(f"round-*/{STATE}"))

    def save_all(self, rows: ServerRows) -> None:
        """Keep the state of all rows."""
        before = self._generations()
        number = _number(before[-1]) + 1 if before else 1

        def fill(folder: Path) -> None:
            save_file(_plain(rows.whole_state()), folder / STATE)
            (folder / "clients").mkdir()
            about = {"round": rows.round, "mixed": rows.mixed, "left_out": sorted(rows.left_out)}
            (folder / "manifest.json").write_text(json.dumps(about), encoding="utf-8")

        write_folder(self.folder / f"now-{number}", fill)
        for path in before:
            shutil.rmtree(path, ignore_errors=True)

    def save_client(self, rows: ServerRows, client: str) -> None:
        """Keep what a client's request has changed."""
        path = self._generations()[-1] / "clients" / f"{quote(client, safe='')}.safetensors"
        partial = path.with_suffix(".partial")
        about = {"steps": str(rows.steps(client))}
        save_file(_plain(rows.client_state(client)), partial, metadata=about)
        partial.replace(path)

    def load(self, rows: ServerRows) -> None:
        """Bring the rows to where they were.

        Raises:
            CheckpointError: the folder is damaged.
        """
        generations = self._generations()
        if not generations:
            raise _damaged(self.folder, "it holds no state")
        folder = generations[-1]
        try:
            about = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
            rows.restore_whole(load_file(folder / STATE), about["round"], about["mixed"], about["left_out"])
            for client in rows.bank.clients:
                path = folder / "clients" / f"{quote(client, safe='')}.safetensors"
                if path.is_file():
                    with safe_open(path, "pt") as file:
                        steps = int(file.metadata()["steps"])
                    rows.restore_client(client, load_file(path), steps)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as problem:
            raise _damaged(folder, problem) from problem

    def save_round(self, rows: ServerRows, number: int) -> None:
        """Keep the state after a finished round; the newest rounds are kept, and the beginning."""
        rounds = self.folder / "rounds"
        make_folder(rounds / f"round-{number:04d}")
        _write_state(rounds / f"round-{number:04d}" / STATE, rows.state())
        kept = {int(path.name[6:]): path for path in rounds.iterdir() if re.fullmatch(r"round-\d+", path.name)}
        newest = sorted(round_ for round_ in kept if 0 < round_ <= number)[-ROUNDS_KEPT:]
        for round_ in kept.keys() - {0, *newest}:  # later ones are of a course that was given up when a run went back
            shutil.rmtree(kept[round_], ignore_errors=True)

    def restore_round(self, rows: ServerRows, number: int) -> None:
        """Bring the rows back to the end of a round.

        Raises:
            CheckpointError: it was not kept.
        """
        path = self.folder / "rounds" / f"round-{number:04d}" / STATE
        if not path.is_file():
            raise CheckpointError(
                f"The trunk's server has not kept the state after round {number}. Start the run again, with --overwrite."
            )
        try:
            rows.restore(load_file(path), number)
        except SafetensorError as problem:
            raise _damaged(path, problem) from problem
        self.save_all(rows)

    def _generations(self) -> list[Path]:
        found = [path for path in self.folder.glob("now-*") if re.fullmatch(r"now-\d+", path.name)]
        return sorted(found, key=_number)


def _whose(name: str) -> str:
    """Return the client of a tensor of a state."""
    return name.partition("/")[2]


def _write_state(path: Path, state: dict[str, Tensor]) -> None:
    """Write the state after a round, whole or not at all; what was kept before is there until then."""
    write_file(path, lambda new: save_file(_plain(state), new))


def _number(path: Path) -> int:
    return int(path.name.removeprefix("now-"))


def _plain(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors on the CPU that share no memory."""
    return {name: value.detach().cpu().clone() for name, value in state.items()}


def _damaged(path: Path, why: object) -> CheckpointError:
    return CheckpointError(
        f"The state of the trunk's server in {path} is damaged: {why}. Give an empty folder, and start the run again."
    )
