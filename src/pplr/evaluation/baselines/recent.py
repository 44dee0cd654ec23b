"""Recent popularity: how often an item occurs in training events shortly before the query."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from pplr.data.dataset import Dataset, Ints, Queries
from pplr.errors import DataError
from pplr.evaluation.baselines.popularity import below_one, training_counts
from pplr.evaluation.baselines.selection import SELECTION_KEY, selection_queries
from pplr.evaluation.evaluate import evaluate
from pplr.evaluation.ranking import Floats


class Recent:
    """Scores items by their training events in [t - window, t), t being the query's time; all in the data's unit.

    Events at t itself do not count: they may be the target's own moment. A t after the last training event is moved
    back to just after it, so that a window is never empty because the training period has ended. Items that tie are
    ordered by popularity over all training events.

    Attributes:
        window: length of the window, in the data's unit of time.
    """

    def __init__(self, window: int, times: Ints, items: Ints, counts: Floats) -> None:
        """Take the training events [events], sorted by time, and the popularity [items] that orders ties."""
        self.window = window
        self._times = times
        self._items = items
        self._ties = below_one(counts)

    @staticmethod
    def fit(dataset: Dataset, windows: Sequence[int] | None = None) -> Recent:
        """Return the window among `windows` that is best on validation queries (NDCG@10; the longest of equals).

        Args:
            dataset: only training events are counted.
            windows: candidates in the data's unit of time; by default the span of the training events halved 1 to 10
                times, which suits any unit. A single candidate is taken without looking at validation.

        Raises:
            DataError: the data has no times.
        """
        times = dataset.training_times()
        if times is None:
            raise DataError("Recent popularity needs event times. Map a time column, or leave this baseline out.")
        order = np.argsort(times, kind="stable")
        times, items, counts = times[order], dataset.training().values[order], training_counts(dataset)
        candidates = sorted(set(windows or _halvings(times)), reverse=True)
        found = [Recent(window, times, items, counts) for window in candidates]
        queries = selection_queries(dataset)
        if len(found) == 1 or len(queries) == 0:
            return found[0]
        quality = [evaluate(each, queries, len(counts), (10,)).overall()[SELECTION_KEY] for each in found]
        return found[int(np.argmax(quality))]

    def scores(self, queries: Queries) -> torch.Tensor:
        """Return the counts of each query's window plus the tie order: [len(queries), items], float64.

        Raises:
            DataError: the queries have no times.
        """
        if queries.times is None:
            raise DataError(
                "Recent popularity was asked queries without times. Give each query the time it is asked at."
            )
        end = np.searchsorted(self._times, queries.times, side="left")
        last = self._times[-1] + 1 if len(self._times) else 0
        begin = np.searchsorted(self._times, np.minimum(queries.times, last) - self.window, side="left")
        return torch.from_numpy(self._counts_between(begin.astype(np.int64), end.astype(np.int64)) + self._ties)

    def _counts_between(self, begin: Ints, end: Ints) -> Floats:
        """Return how often each item occurs in events begin .. end - 1: [queries, items].

        Events are cut at all begins and ends, counted once per piece, and added up to running totals; a window's count
        is the difference of two running totals. The work grows with events + queries, not with their product.
        """
        items = len(self._ties)
        if not len(begin):
            return np.zeros((0, items))
        cuts, place = np.unique(np.concatenate([begin, end]), return_inverse=True)
        piece = np.repeat(np.arange(1, len(cuts), dtype=np.int64), np.diff(cuts))
        flat = piece * items + self._items[cuts[0] : cuts[-1]]
        totals = np.bincount(flat, minlength=len(cuts) * items).reshape(len(cuts), items).cumsum(axis=0)
        place = place.reshape(-1)
        return np.asarray(totals[place[len(begin) :]] - totals[place[: len(begin)]], dtype=np.float64)


def _halvings(times: Ints) -> list[int]:
    span = int(times[-1] - times[0]) if len(times) else 0
    return [max(1, span >> halved) for halved in range(1, 11)]
