"""The readings that clients have open: caches of keys and values, each bounded by what its client may hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

from pplr.errors import RunError
from pplr.models.causal.interface import Sight
from pplr.trunk.fields import Limits, ReadFields
from pplr.trunk.work import ClientReading

T = TypeVar("T")


@dataclass
class OpenReading:
    """A reading, and how much it holds.

    Attributes:
        reading: the cache.
        room: free tokens behind the prompt.
        rows: rows of the cache; 0 before the first read.
        length: tokens of each row.
    """

    reading: ClientReading
    room: int
    rows: int = 0
    length: int = 0

    @property
    def tokens(self) -> int:
        """Tokens for which memory is taken."""
        return self.rows * (self.length + self.room)


class Readings:
    """All open readings, by client and number."""

    def __init__(self, limits: Limits, held_elsewhere: Callable[[str], int]) -> None:
        """Bound clients by `limits`; `held_elsewhere` gives the tokens that a client holds outside of readings."""
        self._limits = limits
        self._elsewhere = held_elsewhere
        self._open: dict[tuple[str, int], OpenReading] = {}

    def tokens(self, client: str) -> int:
        """Return the tokens that a client's readings hold."""
        return sum(one.tokens for key, one in self._open.items() if key[0] == client)

    def clear(self, client: str | None = None) -> None:
        """Forget the readings of a client, or all."""
        for key in [key for key in self._open if client is None or key[0] == client]:
            del self._open[key]

    def read(
        self,
        client: str,
        fields: ReadFields,
        given: tuple[Tensor, Tensor, Sight],
        begun: Callable[[], ClientReading],
    ) -> Tensor:
        """Return the states behind the trunk for new tokens; the first read of a reading opens it with `begun`.

        Raises:
            RunError: the client holds too much, or this is not what comes next in the reading.
        """
        key = (client, fields.reading)
        if key not in self._open:
            if sum(other[0] == client for other in self._open) >= self._limits.readings:
                raise RunError(f"Client {client} has {self._limits.readings} readings open. Close one first.")
            self._open[key] = OpenReading(begun(), fields.room)
        held = self._open[key]
        if fields.all != held.length + fields.new or held.rows not in (0, fields.rows):
            raise RunError(
                f"Client {client} reads {fields.rows} rows up to token {fields.all}, where {held.rows} rows of "
                f"{held.length} tokens are known."
            )
        self._change(client, held, fields.rows, fields.all, held.room)
        return self._done(client, lambda: held.reading.read(*given))

    def shift(self, client: str, number: int, moves: list[tuple[int, int]], rows: int) -> None:
        """Copy rows over others, and drop all from `rows` on.

        Raises:
            RunError: there is no such reading, or it has no such rows.
        """
        held = self._known(client, number)
        if any(not 0 <= place < held.rows for move in moves for place in move) or rows > held.rows:
            raise RunError(f"Client {client} moves rows of a reading that it does not have.")
        self._done(client, lambda: held.reading.keep(moves, rows))
        held.rows = rows

    def spread(self, client: str, number: int, rows: int, room: int) -> None:
        """Give the only row of a reading to `rows` rows.

        Raises:
            RunError: there is no such reading, it has more rows than one, or the client would hold too much.
        """
        held = self._known(client, number)
        if held.rows != 1:
            raise RunError(f"Client {client} spreads a reading of {held.rows} rows. Only a single row can be.")
        self._change(client, held, rows, held.length, room)
        self._done(client, lambda: held.reading.spread(rows, room))

    def close(self, client: str, number: int) -> None:
        """Forget a reading, if there is one."""
        self._open.pop((client, number), None)

    def _known(self, client: str, number: int) -> OpenReading:
        held = self._open.get((client, number))
        if held is None:
            raise RunError(f"Client {client} has no reading {number}. Begin it again.")
        return held

    def _change(self, client: str, held: OpenReading, rows: int, length: int, room: int) -> None:
        held.rows, held.length, held.room = rows, length, room
        tokens = self.tokens(client) + self._elsewhere(client)
        if tokens > self._limits.held_tokens:
            raise RunError(
                f"Client {client} would hold {tokens:,} tokens, and {self._limits.held_tokens:,} are allowed. Ask for "
                "fewer users at once."
            )

    def _done(self, client: str, work: Callable[[], T]) -> T:
        try:
            return work()
        except (RuntimeError, IndexError, ValueError) as problem:
            raise RunError(f"A reading of client {client} does not fit what was read before.") from problem
