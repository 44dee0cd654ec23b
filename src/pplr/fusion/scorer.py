"""A model's scores and a client's own statistics as one scorer."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from pplr.data.dataset import Queries
from pplr.evaluation.scorer import Scorer
from pplr.models.backbone import CatalogueScorer

MODEL = "model"
"""The model's name among the weights."""

NEW = "new_items"
"""The name among the weights of what is added for items that nobody has chosen: log-odds, which may be negative."""

Weights = Mapping[str, float]
"""MODEL and the statistics -> weight, none negative; NEW -> log-odds, where the model tells such items."""


class FusedScorer(CatalogueScorer):
    """Scores items by w_model log p_model(i) + sum_s w_s log(1 + n share_s(i)) + b new(i), n being the number of items.

    p_model is the softmax of the model's scores; share_s is a statistic's part in the sum of its scores, so that an item
    about which it knows nothing gets 0. new(i) is 1 for items that nobody has chosen as far as is known, of which no count can say
    anything, else 0: b says how much they are worth beside those that are counted.
    """

    def __init__(
        self,
        model: CatalogueScorer,
        statistics: Mapping[str, Scorer],
        weights: Weights,
        now: int | None = None,
        new_items: Tensor | None = None,
    ) -> None:
        """Mix `model` and `statistics` by `weights`; a query without a time is asked at `now`, in the data's unit.

        `new_items` [items] bool are those to which the weight NEW belongs; None: none.
        """
        self._model = model
        self._statistics = {name: each for name, each in statistics.items() if weights.get(name, 0.0) > 0}
        self._weights = weights
        self._now = now
        bonus = weights.get(NEW, 0.0)
        self._bonus = None if new_items is None or not bonus else new_items * bonus
        self.nothing = -math.inf if math.isinf(model.nothing) else 0.0

    def scores(self, queries: Queries, wanted: int = 0) -> Tensor:
        """Return [len(queries), items]; where the model knows nothing of some items, the lowest of a row is 0 (`nothing`).

        A model that searches does so as widely as it was measured, so that the mix is the same for lists of any length. What
        a wider search finds fills the end of lists that are not full.
        """
        with torch.no_grad():
            mixed = self.mixed(self._model.scores(queries), queries)
            return self._filled(mixed, queries, wanted) if wanted and math.isfinite(self.nothing) else mixed

    def _filled(self, mixed: Tensor, queries: Queries, wanted: int) -> Tensor:
        known = mixed > self.nothing
        enough = wanted + torch.from_numpy(queries.histories.lengths).to(mixed.device)
        if bool((known.sum(dim=1) >= enough).all()):
            return mixed
        further = self._model.scores(queries, wanted).to(mixed)
        return torch.where(known, mixed + 1, further / (further.amax(dim=1, keepdim=True) + 1))

    def mixed(self, scores: Tensor, queries: Queries) -> Tensor:
        """Return what `scores` returns, from the model's scores [len(queries), items] for these queries."""
        if not self._statistics and self._bonus is None and math.isinf(self.nothing):
            return scores  # as they are: rounding would make ties of what is not equal
        mixed = self._weights[MODEL] * log_softmax(scores)
        for name, statistic in self._statistics.items():
            mixed += self._weights[name] * statistic_feature(statistic, queries, self._now).to(mixed)
        if self._bonus is not None:
            mixed += self._bonus.to(mixed)
        if math.isfinite(self.nothing) and len(mixed):
            mixed -= mixed.amin(dim=1, keepdim=True)
        return mixed


class Given(CatalogueScorer):
    """Scores that have been computed before, for the very queries that will be asked, all at once."""

    def __init__(self, rows: Tensor) -> None:
        """Take the scores [queries, items]."""
        self._rows = rows

    def scores(self, queries: Queries, wanted: int = 0) -> Tensor:
        """Return the scores."""
        return self._rows


def log_softmax(scores: Tensor) -> Tensor:
    """Return the log of the softmax of a model's scores, [queries, items] float32."""
    return torch.log_softmax(scores.float(), dim=1)


def statistic_feature(statistic: Scorer, queries: Queries, now: int | None) -> Tensor:
    """Return log(1 + n share) of a statistic's scores, [len(queries), items] float32; 0 where it has seen nothing."""
    scores = statistic.scores(queries.asked_at(now))
    total = scores.sum(dim=1, keepdim=True)
    share = torch.where(total > 0, scores / total.clamp_min(torch.finfo(scores.dtype).tiny), 0.0)
    return torch.log1p(share * scores.shape[1]).float()
