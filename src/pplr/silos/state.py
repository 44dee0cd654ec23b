"""What a silo remembers between rounds, on its own disk: after each step of a round, whole or not there.

A coordinator that was killed goes on after its newest checkpoint, perhaps with a round that the silo has been through. So
the silo keeps the states of a few rounds, and starts each step from the state that was there before it.
"""

from __future__ import annotations

import re
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from pplr.errors import CheckpointError
from pplr.storage import make_folder, write_bytes, write_text

KEPT_ROUNDS = 3
"""The coordinator keeps two checkpoints, and may die before it has written the newest."""
TRAINED, VALIDATED = 0, 1
"""Steps of a round, in their order."""
RUN = "run"
"""File with the identity of the run that all states are of."""
_NAME = re.compile(r"round-(\d{4,})-(trained|validated)\.safetensors")
_WORDS = {TRAINED: "trained", VALIDATED: "validated"}

Moment = tuple[int, int]
"""Round and step."""


class SiloState:
    """The folder of one silo."""

    def __init__(self, folder: Path) -> None:
        """Use `folder`, which is made where it does not exist.

        Raises:
            StorageError: it cannot be made.
        """
        make_folder(folder)
        self._folder = folder

    def before(self, moment: Moment) -> dict[str, Tensor] | None:
        """Return the newest state from before a moment, or None where there is none.

        Raises:
            CheckpointError: it is damaged.
        """
        earlier = [kept for kept in self._moments() if kept < moment]
        if not earlier:
            return None
        path = self._path(max(earlier))
        try:
            return load(path.read_bytes())  # a mapped file would keep its place on the disk when it is deleted
        except (OSError, SafetensorError) as problem:
            raise CheckpointError(
                f"The state {path} of this silo is damaged ({problem}). Delete it: the silo then goes on from the one "
                "before."
            ) from problem

    def save(self, moment: Moment, state: dict[str, Tensor]) -> None:
        """Keep the state after a moment; what is newer was another future, and goes.

        Raises:
            StorageError: the disk is full or not writable.
        """
        write_bytes(self._path(moment), save({name: tensor.contiguous().cpu() for name, tensor in state.items()}))
        rounds = sorted({kept[0] for kept in self._moments() if kept <= moment})[-KEPT_ROUNDS:]
        for kept in self._moments():
            if kept > moment or kept[0] < rounds[0]:
                self._path(kept).unlink(missing_ok=True)

    def belong_to(self, run: str) -> None:
        """Forget everything that is not of the run with this identity.

        Raises:
            StorageError: the disk is full or not writable.
        """
        mark = self._folder / RUN
        if mark.is_file() and mark.read_text(encoding="utf-8", errors="replace") == run:
            return
        for kept in self._moments():
            self._path(kept).unlink(missing_ok=True)
        write_text(mark, run)

    def _moments(self) -> list[Moment]:
        matches = (_NAME.fullmatch(path.name) for path in self._folder.iterdir())
        return [(int(match[1]), TRAINED if match[2] == "trained" else VALIDATED) for match in matches if match]

    def _path(self, moment: Moment) -> Path:
        return self._folder / f"round-{moment[0]:04d}-{_WORDS[moment[1]]}.safetensors"
