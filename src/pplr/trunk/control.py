"""What a run's coordinator asks of the trunk's server: rounds, Gram matrices, mixing, and the state between rounds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor

from pplr.errors import CheckpointError
from pplr.trunk.rows import ServerRows
from pplr.trunk.store import ROUNDS_KEPT


class TrunkControl(ABC):
    """The trunk's rows as the coordinator sees them: never as such."""

    @abstractmethod
    def begin_round(self, number: int) -> None:
        """Let a round begin (see `ServerRows.begin_round`)."""

    @abstractmethod
    def leave_out(self, clients: Sequence[str], number: int) -> None:
        """Let round `number` go on without `clients` (see `ServerRows.leave_out`)."""

    @abstractmethod
    def gram(self, *, updates: bool) -> Tensor:
        """Return the inner products [clients, clients] float64 of all rows, or of what this round has changed."""

    @abstractmethod
    def mix(self, mixing: Tensor, number: int) -> None:
        """Replace the rows by `mixing` [clients, clients] @ rows, once in round `number`."""

    @abstractmethod
    def save(self, number: int) -> None:
        """Keep the state after round `number`, so that `restore` finds it."""

    @abstractmethod
    def restore(self, number: int) -> None:
        """Go back to the state after round `number`; 0 is the beginning.

        Raises:
            CheckpointError: the server has not kept it.
        """


class DirectControl(TrunkControl):
    """Coordinator and server in one process; states are kept in memory."""

    def __init__(self, rows: ServerRows) -> None:
        self._rows = rows
        self._saved = {0: _copy(rows)}

    def begin_round(self, number: int) -> None:
        """Let a round begin."""
        self._rows.begin_round(number)

    def leave_out(self, clients: Sequence[str], number: int) -> None:
        """Leave clients out of a round."""
        self._rows.leave_out(clients, number)

    def gram(self, *, updates: bool) -> Tensor:
        """Return the inner products."""
        return self._rows.gram(updates=updates)

    def mix(self, mixing: Tensor, number: int) -> None:
        """Mix the rows."""
        self._rows.mix(mixing, number)

    def save(self, number: int) -> None:
        """Keep the state; those of the newest rounds are kept, and of the beginning."""
        self._saved = {kept: state for kept, state in self._saved.items() if kept < number} | {
            number: _copy(self._rows)
        }
        for old in sorted(self._saved)[1:-ROUNDS_KEPT]:
            del self._saved[old]

    def restore(self, number: int) -> None:
        """Go back."""
        if number not in self._saved:
            raise CheckpointError(
                f"The trunk's rows after round {number} were not kept. Start the run again, with --overwrite."
            )
        self._rows.restore(self._saved[number], number)


def _copy(rows: ServerRows) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in rows.state().items()}
