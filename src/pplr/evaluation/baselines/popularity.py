"""Popularity: how often an item occurs in training events."""

from __future__ import annotations

import numpy as np
import torch

from pplr.data.dataset import Dataset, Queries
from pplr.evaluation.ranking import Floats


class Popularity:
    """Scores every item by its number of training events, the same for all users."""

    def __init__(self, counts: Floats) -> None:
        self._counts = torch.from_numpy(counts)

    @staticmethod
    def fit(dataset: Dataset) -> Popularity:
        """Count the training events of each item."""
        return Popularity(training_counts(dataset))

    def scores(self, queries: Queries) -> torch.Tensor:
        """Return the counts [len(queries), items], float64."""
        return self._counts.expand(len(queries), -1)


def training_counts(dataset: Dataset) -> Floats:
    """Return the number of training events of each item: [items]."""
    return np.bincount(dataset.training().values, minlength=len(dataset.catalogue)).astype(np.float64)


def below_one(counts: Floats) -> Floats:
    """Return `counts` [items] scaled into [0, 1): added to whole numbers it orders those that tie, and nothing else."""
    return np.asarray(counts / (counts.max(initial=0.0) + 1.0), dtype=np.float64)
