"""Metrics of a ranking: pure functions of `Ranks`, one file each.

A metric takes the ranks and K and returns one value per query; a new one needs its file and its line in `METRICS`.
Values are expectations over random orders of tied items. The tempting short cut, to cut the *expected rank* at K, can
be inflated: 19 tied items all have the expected rank 10, so all of them would be hits among the first 10.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from pplr.errors import ConfigError
from pplr.evaluation.metrics.ndcg import ndcg
from pplr.evaluation.metrics.recall import recall
from pplr.evaluation.ranking import Floats, Ranks

Metric = Callable[[Ranks, int], Floats]

METRICS: Mapping[str, Metric] = {"recall": recall, "ndcg": ndcg}
"""Name -> metric, in the order of tables."""

DEFAULT_KS = (5, 10, 20, 50)
"""List lengths K of Recall@K and NDCG@K that are reported where the configuration names none."""


def metric_key(metric: str, k: int) -> str:
    """Return the name of a metric at a list length in results and files, such as "recall@10"."""
    return f"{metric}@{k}"


def measure(ranks: Ranks, ks: Sequence[int] = DEFAULT_KS) -> dict[str, Floats]:
    """Return every metric at every K: key -> one value per query [queries].

    Raises:
        ConfigError: a K is not a positive number.
    """
    if wrong := [k for k in ks if k < 1]:
        raise ConfigError(f"The list length K = {wrong[0]} is not possible. Use positive numbers, such as 10.")
    return {metric_key(name, k): metric(ranks, k) for name, metric in METRICS.items() for k in ks}


__all__ = ["DEFAULT_KS", "METRICS", "Metric", "measure", "metric_key", "ndcg", "recall"]
