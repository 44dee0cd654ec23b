"""First-order transitions: what was chosen shortly after the items of the history."""

from __future__ import annotations

import numpy as np
import torch

from pplr.data.dataset import Dataset, Queries
from pplr.evaluation.baselines.sparse_rows import SparseMatrix, row_of_each, sparse_counts, weighted_rows

DISTANCE_WEIGHTS = {1: 6.0, 2: 3.0, 3: 2.0}
"""Weight of a transition over a distance: in proportion to 1 / distance, and whole, so that sums tie exactly."""

DECAY = 0.5
"""Weight of a history's item per step back from its end."""


class Transitions:
    """Scores item j by the transitions i -> j seen in training, for all i of the history, halved per step back.

    A training pair (i, j) counts where j follows i by 1, 2 or 3 places in one user's sequence, with weight 1 / places.
    """

    def __init__(self, transitions: SparseMatrix) -> None:
        """Take the weights [items, items]: row i holds what follows i."""
        self._transitions = transitions

    @staticmethod
    def fit(dataset: Dataset) -> Transitions:
        """Count the transitions of the training sequences."""
        training, items = dataset.training(), len(dataset.catalogue)
        row, value = row_of_each(training), training.values
        before, after, weight = [], [], []
        for distance, each in DISTANCE_WEIGHTS.items():
            same = row[distance:] == row[:-distance]
            before.append(value[:-distance][same])
            after.append(value[distance:][same])
            weight.append(np.full(int(same.sum()), each))
        pairs = (np.concatenate(before), np.concatenate(after), np.concatenate(weight))
        return Transitions(sparse_counts(*pairs, (items, items)))

    def scores(self, queries: Queries) -> torch.Tensor:
        """Return the scores [len(queries), items], float64."""
        history = weighted_rows(queries.histories, self._transitions.shape[0], DECAY)
        return torch.from_numpy((history @ self._transitions).toarray())
