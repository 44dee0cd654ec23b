"""Popularity in the validation period: the last window before the test period of a split by global time."""

from __future__ import annotations

import numpy as np
import torch

from pplr.data.dataset import Dataset, Part, Queries
from pplr.evaluation.baselines.popularity import below_one, training_counts
from pplr.evaluation.ranking import Floats


class ValidationWindow:
    """Scores every item by its number of validation events; items that tie are ordered by training popularity.

    The only baseline that counts more than training events: in a split by global time all validation events happened
    before all test events, so they are the newest window that a test query may look back on. It must never be asked
    validation queries, and means nothing in leave-one-out, where one user's validation event may be later than
    another's test event. Data without time has no other way to see what was popular lately.
    """

    def __init__(self, counts: Floats) -> None:
        self._counts = torch.from_numpy(counts)

    @staticmethod
    def applies(dataset: Dataset, part: Part) -> bool:
        """Return whether `part` is the test part of a split by global time.

        Such a split gives some users several validation events; leave-one-out gives every user at most one.
        """
        users = np.repeat(np.arange(len(dataset.items)), dataset.items.lengths)
        most = np.bincount(users[dataset.parts == Part.VALIDATION]).max(initial=0)
        return part is Part.TEST and bool(most > 1)

    @staticmethod
    def fit(dataset: Dataset) -> ValidationWindow:
        """Count the validation events of each item."""
        window = dataset.items.values[dataset.parts == Part.VALIDATION]
        counts = np.bincount(window, minlength=len(dataset.catalogue)).astype(np.float64)
        return ValidationWindow(counts + below_one(training_counts(dataset)))

    def scores(self, queries: Queries) -> torch.Tensor:
        """Return the counts [len(queries), items], float64."""
        return self._counts.expand(len(queries), -1)
