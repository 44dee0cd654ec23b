"""From values of single targets to one value per query."""

from __future__ import annotations

import warnings

import numpy as np

from pplr.evaluation.ranking import Floats, Ranks


def mean_over_targets(ranks: Ranks, values: Floats, best: Floats, key: str) -> Floats:
    """Return, per query, the sum of its targets' `values` [pairs] divided by `best` [queries]: [queries].

    A query without targets has no value: NaN, with a RuntimeWarning that says of which metric (`key`) and how many.
    """
    without = int((ranks.targets == 0).sum())
    if without:
        warnings.warn(
            f"{without} of {ranks.queries} queries have no targets; their {key} is NaN and no mean includes them.",
            RuntimeWarning,
            stacklevel=3,
        )
    total = np.bincount(ranks.rows, weights=values, minlength=ranks.queries)
    mean = np.full(ranks.queries, np.nan)
    np.divide(total, best, out=mean, where=ranks.targets > 0)
    return mean
