"""NDCG@K: hits count the more, the earlier they stand."""

from __future__ import annotations

import numpy as np

from pplr.evaluation.metrics.targets import mean_over_targets
from pplr.evaluation.ranking import Floats, Ranks


def ndcg(ranks: Ranks, k: int) -> Floats:
    """Return NDCG@k of each query [queries] with binary gain (docs/evaluation.md).

    DCG is the sum of 1 / log2(1 + rank) over the targets with rank <= k; the ideal has min(k, |targets|) hits at the
    first places. A target that shares its score with others gains the mean over the places that the tied items fill,
    places after k giving nothing. A query without targets has NaN, and a warning is given.
    """
    discounts = np.concatenate([np.zeros(1), np.cumsum(1.0 / np.log2(1.0 + np.arange(1, k + 1)))])
    group = ranks.tied + 1.0
    before = np.minimum(ranks.higher, k).astype(np.int64)
    until = np.minimum(ranks.higher + group, k).astype(np.int64)
    gain = (discounts[until] - discounts[before]) / group
    return mean_over_targets(ranks, gain, discounts[np.minimum(ranks.targets, k)], f"ndcg@{k}")
