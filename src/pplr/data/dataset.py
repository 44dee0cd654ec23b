"""What the rest of the program knows of data: integer codes, ragged rows, and who may see what.

Users and items are numbered 0, 1, ... in the order of `user_ids` and `catalogue.ids`; everything behind this file works
on those codes. Arrays are never changed after construction.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


class Part(IntEnum):
    """Which part of the split an event belongs to."""

    TRAIN = 0
    VALIDATION = 1
    TEST = 2


@dataclass(frozen=True)
class Ragged:
    """Rows of different lengths in one array: row i is `values[offsets[i]:offsets[i + 1]]`.

    Attributes:
        values: [total] all rows behind each other.
        offsets: [rows + 1] where each row starts; the last entry is `total`.
    """

    values: Ints
    offsets: Ints

    @staticmethod
    def from_rows(rows: Sequence[Sequence[int] | Ints]) -> Ragged:
        """Return the ragged array that holds `rows`."""
        lengths = np.fromiter((len(row) for row in rows), dtype=np.int64, count=len(rows))
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        parts = [np.asarray(row, dtype=np.int64) for row in rows]
        return Ragged(np.concatenate(parts) if parts else np.zeros(0, np.int64), offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> Ints:
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    def __iter__(self) -> Iterator[Ints]:
        return (self[row] for row in range(len(self)))

    @property
    def lengths(self) -> Ints:
        """[rows] length of each row."""
        return np.diff(self.offsets)

    def select(self, rows: Ints) -> Ragged:
        """Return the given rows, in the given order."""
        lengths = self.lengths[rows]
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        within = np.arange(offsets[-1], dtype=np.int64) - np.repeat(offsets[:-1], lengths)
        return Ragged(self.values[np.repeat(self.offsets[rows], lengths) + within], offsets)


@dataclass(frozen=True)
class Catalogue:
    """The public table of items, shared by all clients. Item code i is `ids[i]`.

    Attributes:
        ids: item ids as written in the file.
        titles: one title per item; titles may repeat, ids may not.
        attributes: column name -> one text per item, "" where it is missing.
    """

    ids: tuple[str, ...]
    titles: tuple[str, ...]
    attributes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Queries:
    """What is asked of a recommender: one row per user, and the true answers to measure it by.

    Attributes:
        users: [n] user codes.
        histories: n rows of item codes, oldest first: all that the recommender may see of each user.
        targets: n rows of item codes that the user chose next (at least one in a validation or test set).
        times: [n] time of the first target, in the unit of the data, or None where the data has no time.
    """

    users: Ints
    histories: Ragged
    targets: Ragged
    times: Ints | None = None

    def __len__(self) -> int:
        return len(self.users)

    def asked(self) -> Queries:
        """Return the same queries without their targets: what a recommender may see of them."""
        nothing = Ragged(np.zeros(0, np.int64), np.zeros(len(self) + 1, np.int64))
        return replace(self, targets=nothing)

    def batches(self, size: int) -> Iterator[Queries]:
        """Cut the queries into consecutive pieces of `size`; the last may be shorter."""
        for start in range(0, len(self), size):
            yield self.select(np.arange(start, min(start + size, len(self)), dtype=np.int64))

    def asked_at(self, now: int | None) -> Queries:
        """Return the same queries, asked at `now` where they have no time."""
        if self.times is not None or now is None:
            return self
        return replace(self, times=np.full(len(self), now, np.int64))

    def select(self, rows: Ints) -> Queries:
        """Return the given rows, in the given order."""
        times = None if self.times is None else self.times[rows]
        return Queries(self.users[rows], self.histories.select(rows), self.targets.select(rows), times)


@dataclass(frozen=True)
class Dataset:
    """All interactions, coded, split, and sorted by user, then by time within a user.

    Attributes:
        catalogue: the items.
        user_ids: user ids as written in the file; user code u is `user_ids[u]`.
        items: one row of item codes per user, oldest first.
        parts: [events] `Part` of each event, parallel to `items.values`.
        times: [events] time of each event, parallel to `items.values`, or None.
        silos: the silo of each user as written in the file, or None where the file has no such column.
    """

    catalogue: Catalogue
    user_ids: tuple[str, ...]
    items: Ragged
    parts: NDArray[np.int8]
    times: Ints | None = None
    silos: tuple[str, ...] | None = None

    def of(self, users: Ints) -> Dataset:
        """Return the same catalogue and codes with the events of `users` alone; all others have none."""
        lengths = np.where(np.isin(np.arange(len(self.items)), users), self.items.lengths, 0)
        kept = np.repeat(lengths > 0, self.items.lengths)
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        times = None if self.times is None else self.times[kept]
        return replace(self, items=Ragged(self.items.values[kept], offsets), parts=self.parts[kept], times=times)

    def training(self) -> Ragged:
        """Return each user's training items, oldest first; the row of a user without any is empty."""
        return self._rows(self.parts == Part.TRAIN)

    def training_times(self) -> Ints | None:
        """Return the times of `training().values`, or None where the data has no time."""
        return None if self.times is None else self.times[self.parts == Part.TRAIN]

    def queries(self, part: Part) -> Queries:
        """Return one query per user with targets in `part`: the history is everything in earlier parts.

        A user with an empty history is left out: no personal recommendation can be asked for.
        """
        targets = self._rows(self.parts == part)
        histories = self._rows(self.parts < part)
        users = np.flatnonzero((targets.lengths > 0) & (histories.lengths > 0)).astype(np.int64)
        times = None
        if self.times is not None:
            times = self.times[self.parts == part][targets.offsets[users]]
        return Queries(users, histories.select(users), targets.select(users), times)

    def _rows(self, wanted: NDArray[np.bool_]) -> Ragged:
        users = np.repeat(np.arange(len(self.items)), self.items.lengths)
        lengths = np.bincount(users[wanted], minlength=len(self.items))
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        return Ragged(self.items.values[wanted], offsets)


@dataclass(frozen=True)
class ClientData:
    """D_c: what one client owns and nobody else sees.

    Attributes:
        name: the client's name; clients are ordered by it everywhere.
        users: [n] user codes.
        training: n rows of item codes, oldest first.
        validation: queries of these users whose targets are validation events.
        test: queries of these users whose targets are test events.
    """

    name: str
    users: Ints
    training: Ragged
    validation: Queries
    test: Queries
