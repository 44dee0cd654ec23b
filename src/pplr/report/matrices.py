"""Matrices [clients, clients] of every round, small enough for a page: mixing, and what the strategy tells of it."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

from pplr.federation.history import Matrix, RoundRecord

MOST_NUMBERS = 300_000
"""Most numbers that a report carries for its matrices: about 2 MB of text."""

NAMES = {"mixing": "mixing matrix D", "similarity": "similarity s"}


@dataclass(frozen=True)
class Matrices:
    """What the heat map shows.

    Attributes:
        clients: names of rows and columns.
        rounds: the rounds that are kept: all, or some evenly spaced ones with the first and the last.
        values: name of a matrix -> one matrix per kept round, rounded to four digits.
        titles: name of a matrix -> its title.
        left_out: rounds that are not kept.
    """

    clients: tuple[str, ...]
    rounds: tuple[int, ...]
    values: dict[str, list[Matrix]]
    titles: dict[str, str]
    left_out: int


def matrices(records: Sequence[RoundRecord], limit: int = MOST_NUMBERS) -> Matrices | None:
    """Return the matrices of the rounds within `limit` numbers, or None where not even two rounds would fit.

    None too where there is nothing to show: no rounds, a single client, or a strategy without matrices.
    """
    if records:  # a silo that was forgotten changes who rows and columns are of
        records = [record for record in records if record.clients.keys() == records[-1].clients.keys()]
    if not records or len(records[0].clients) < 2:
        return None
    size = len(records[0].clients)
    kinds = [] if any(record.mixing is None for record in records) else ["mixing"]
    kinds += [name for name, value in records[0].details.items() if _is_matrix(value, size)]
    if not kinds:
        return None
    room = limit // (size * size * len(kinds))
    if room < min(2, len(records)):
        return None
    keep = min(room, len(records))
    places = [round(i * (len(records) - 1) / max(1, keep - 1)) for i in range(keep)]
    values: dict[str, list[Matrix]] = {kind: [] for kind in kinds}
    for place in places:
        for kind in kinds:
            matrix = records[place].mixing if kind == "mixing" else records[place].details.get(kind, [])
            values[kind].append([[round(x, 4) for x in row] for row in matrix or [] if isinstance(row, list)])
    return Matrices(
        clients=tuple(html.escape(name, quote=False) for name in records[0].clients),
        rounds=tuple(records[place].round for place in places),
        values=values,
        titles={kind: NAMES.get(kind, kind.replace("_", " ")) for kind in kinds},
        left_out=len(records) - keep,
    )


def _is_matrix(value: object, size: int) -> bool:
    return isinstance(value, list) and len(value) == size and all(isinstance(row, list) for row in value)
