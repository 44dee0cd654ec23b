"""Evaluate a scorer: one value per user and metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pplr.data.dataset import Ints, Queries
from pplr.errors import DataError
from pplr.evaluation.metrics import DEFAULT_KS, measure
from pplr.evaluation.ranking import Floats, rank_targets
from pplr.evaluation.scorer import Scorer

USER_COLUMN = "user"


@dataclass(frozen=True)
class UserMetrics:
    """Metrics of single users, from which every mean, balance measure and interval is computed.

    Attributes:
        users: [n] user codes, each once.
        values: metric key such as "recall@10" -> [n] values; NaN where a user had no targets.
    """

    users: Ints
    values: Mapping[str, Floats]

    def __post_init__(self) -> None:
        if wrong := [key for key, column in self.values.items() if column.shape != self.users.shape]:
            raise DataError(
                f"The metric '{wrong[0]}' has {len(self.values[wrong[0]])} values for {len(self.users)} users. "
                f"Give one value per user."
            )
        if len(np.unique(self.users)) != len(self.users):
            raise DataError("A user occurs more than once in the metrics. Evaluate each user once per data set.")

    def __len__(self) -> int:
        return len(self.users)

    def overall(self) -> dict[str, float]:
        """Return the mean over users of every metric; users without a value are left out, NaN if nobody has one."""
        return {key: mean_of_known(column) for key, column in self.values.items()}


def evaluate(
    scorer: Scorer,
    queries: Queries,
    items: int,
    ks: Sequence[int] = DEFAULT_KS,
    *,
    mask_history: bool = True,
    batch: int = 256,
) -> UserMetrics:
    """Rank the catalogue of `items` for every query and measure Recall@K and NDCG@K for each user.

    See `rank_targets` for the ranking and its errors, and `measure` for the metrics. `batch` changes memory and speed
    (about 25 bytes per user of the batch and item with float32 scores), never the result.
    """
    ranks = rank_targets(scorer, queries, items, mask_history=mask_history, batch=batch)
    return UserMetrics(queries.users, measure(ranks, ks))


def together(parts: Sequence[UserMetrics]) -> UserMetrics:
    """Return the metrics of several groups of users as one table."""
    keys = parts[0].values.keys() if parts else []
    users = np.concatenate([part.users for part in parts]) if parts else np.zeros(0, np.int64)
    return UserMetrics(users, {key: np.concatenate([part.values[key] for part in parts]) for key in keys})


def mean_of_known(values: Floats) -> float:
    """Return the mean of the values that are not NaN, and NaN where there is none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
