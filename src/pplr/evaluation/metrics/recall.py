"""Recall@K: the share of the targets among the first K items."""

from __future__ import annotations

import numpy as np

from pplr.evaluation.metrics.targets import mean_over_targets
from pplr.evaluation.ranking import Floats, Ranks


def recall(ranks: Ranks, k: int) -> Floats:
    """Return Recall@k of each query [queries]: hits / |targets|.

    A target that shares its score with others is a hit with the probability that it is among the first k when the
    tied items are put in random order. A query without targets has NaN, and a warning is given.
    """
    group = ranks.tied + 1.0
    hit = (np.minimum(ranks.higher + group, k) - np.minimum(ranks.higher, k)) / group
    return mean_over_targets(ranks, hit, ranks.targets.astype(np.float64), f"recall@{k}")
