"""Held-out queries by what is hard about them: items that nobody has chosen yet, and short histories."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pplr.data.dataset import Ints, Queries, Ragged

NEW, KNOWN = "new items", "known items"

HISTORIES = (1, 5, 10, 20)
"""Where a bucket of history lengths begins."""


def by_novelty(queries: Queries, training: Ragged, items: int) -> dict[str, Queries]:
    """Return the queries with only those targets that are in nobody's `training` events, and with only the others.

    A query whose targets are of both kinds is in both buckets, with those of each; without any, it is in neither.
    `items` is the size of the catalogue, whose codes `training` holds, a row per user.
    """
    known = np.zeros(items, dtype=bool)
    known[training.values] = True
    of_known = known[queries.targets.values]
    return {NEW: _with_targets(queries, ~of_known), KNOWN: _with_targets(queries, of_known)}


def by_history(queries: Queries, starts: Sequence[int] = HISTORIES) -> dict[str, Queries]:
    """Return the queries by the length of their histories: from each of `starts`, ascending, to the next.

    Histories shorter than the first are in no bucket.
    """
    lengths = queries.histories.lengths
    ends = [*(start - 1 for start in starts[1:]), None]
    found = {}
    for start, end in zip(starts, ends, strict=True):
        inside = (lengths >= start) & (True if end is None else lengths <= end)
        name = f"{start} or more" if end is None else f"{start} to {end}"
        found[f"histories of {name}"] = queries.select(np.flatnonzero(inside).astype(np.int64))
    return found


def _with_targets(queries: Queries, wanted: NDArray[np.bool_]) -> Queries:
    """Return the queries that have some of the wanted targets, with those alone."""
    row = np.repeat(np.arange(len(queries)), queries.targets.lengths)
    counts: Ints = np.bincount(row[wanted], minlength=len(queries)).astype(np.int64)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
    fewer = Queries(queries.users, queries.histories, Ragged(queries.targets.values[wanted], offsets), queries.times)
    return fewer.select(np.flatnonzero(counts).astype(np.int64))
