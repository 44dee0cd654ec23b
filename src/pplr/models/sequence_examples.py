"""What the sequence backbone is trained on: windows of item codes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pplr.data.dataset import Ints, Queries, Ragged


@dataclass(frozen=True)
class ItemSequences:
    """Windows of item codes; every item but the first is a target unless only the last ones are.

    Attributes:
        windows: rows of item codes, oldest first, each of at least two items.
        scored: [rows] how many of the newest items of each window are targets.
    """

    windows: Ragged
    scored: Ints

    @classmethod
    def of_histories(cls, histories: Ragged, positions: int) -> ItemSequences:
        """Return each history in windows of `positions` + 1 items that overlap by one: every event is a target once."""
        windows = [
            row[max(0, end - positions - 1) : end] for row in histories for end in range(len(row), 1, -positions)
        ]
        ragged = Ragged.from_rows(windows)
        return cls(ragged, ragged.lengths - 1)

    @classmethod
    def of_queries(cls, queries: Queries, positions: int) -> ItemSequences:
        """Return one window per (query, target): the newest items of the history, then the target."""
        windows = [
            np.append(history[-positions:], target)
            for history, targets in zip(queries.histories, queries.targets, strict=True)
            for target in targets
        ]
        return cls(Ragged.from_rows(windows), np.ones(len(windows), np.int64))

    @property
    def lengths(self) -> Ints:
        """[rows] items that the transformer reads."""
        return self.windows.lengths - 1

    @cached_property
    def items(self) -> Ints:
        """The item codes that occur, ascending."""
        return np.unique(self.windows.values)

    def __len__(self) -> int:
        return len(self.windows)

    def select(self, rows: Ints) -> ItemSequences:
        """Return the given examples, in the given order."""
        return ItemSequences(self.windows.select(rows), self.scored[rows])
