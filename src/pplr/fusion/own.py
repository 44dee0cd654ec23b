"""One client's statistics, counted on its own training events, and how far it trusts them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import torch
from torch import Tensor

from pplr.data.dataset import Dataset, Ints, Queries
from pplr.evaluation import Scorer, evaluate, fit_baselines
from pplr.evaluation.evaluate import mean_of_known
from pplr.evaluation.ranking import Floats, finite_scores, mask_histories, target_pairs
from pplr.fusion.scorer import MODEL, NEW, FusedScorer, Given, Weights, log_softmax, statistic_feature
from pplr.fusion.settings import FusionSettings
from pplr.fusion.weights import Evidence, learned_weights
from pplr.models.backbone import CatalogueScorer

Feature = Callable[[Queries], Tensor]
"""Queries -> [queries, items] log-scores."""

KEY = "ndcg@10"
_ELEMENTS = 1 << 24
"""Scores per feature that weights are learned from, at most: 64 MB."""


@dataclass(frozen=True)
class Learned:
    """What validation queries say about a client's model and its statistics.

    Attributes:
        weights: of the model and the statistics.
        alone: NDCG@10 of the model alone, on the queries that the weights are learned from; NaN without queries.
        mixed: NDCG@10 of the mix on them, each half ranked with the weights that the other half taught.
        users: how many queries these are.
    """

    weights: Weights
    alone: float
    mixed: float
    users: int


class Fusion:
    """What a client knows beside its model. Statistics are fitted when they are first needed."""

    def __init__(self, settings: FusionSettings, dataset: Dataset, users: Ints) -> None:
        """Count on the training events of `users` alone."""
        self._settings = settings
        self._dataset = dataset
        self._users = users

    @property
    def statistics(self) -> Mapping[str, Scorer]:
        """The statistics that the data allows, by name."""
        return self._counted[0]

    @property
    def _now(self) -> int | None:
        """The moment after the last training event, in the data's unit."""
        return self._counted[1]

    @cached_property
    def _chosen(self) -> Ints:
        """The items of this client's training events."""
        return np.unique(self._dataset.of(self._users).training().values)

    @cached_property
    def _counted(self) -> tuple[Mapping[str, Scorer], int | None]:
        own = self._dataset.of(self._users)
        times = own.training_times()
        now = None if times is None or not len(times) else int(times.max()) + 1
        return fit_baselines(own, names=self._settings.statistics), now

    def fused(self, model: CatalogueScorer, weights: Weights) -> FusedScorer:
        """Return model and statistics as one scorer."""
        return FusedScorer(model, self.statistics, weights, self._now, self._new_items(model))

    def _new_items(self, model: CatalogueScorer) -> Tensor | None:
        """Return [items] bool: items that are new as far as the model tells, and in none of this client's training events."""
        if model.new_items is None:
            return None
        found = model.new_items.clone()
        found[torch.from_numpy(self._chosen).to(found.device)] = False
        return found if bool(found.any()) else None

    def learn(
        self, model: CatalogueScorer, validation: Queries, *, mask_history: bool = True, batch: int = 256
    ) -> Learned:
        """Return the weights of the model and the statistics, learned on validation queries, of which it scores `batch` at once.

        They are learned on each half of the queries and tried on the other. Where the mix does not rank better there
        than the model alone, the model stays alone.

        Raises:
            NumericalError: a score of the model is not finite.
        """
        features = self.features(model)
        evidence, queries = gathered(
            list(features.values()),
            validation,
            len(self._dataset.catalogue),
            users=self._settings.users,
            mask_history=mask_history,
            batch=batch,
            new_items=self._new_items(model),
        )
        names = [*features, *([] if evidence.new_items is None else [NEW])]
        weights, alone, mixed = tried_on_halves(evidence, queries, mask_history=mask_history)
        return Learned(dict(zip(names, weights.tolist(), strict=True)), alone, mixed, len(queries))

    def features(self, model: CatalogueScorer) -> dict[str, Feature]:
        """Return what weights are learned for, by name: the model first, then the statistics."""
        counted = {name: partial(statistic_feature, each, now=self._now) for name, each in self.statistics.items()}
        return {MODEL: partial(_log_probabilities, model, items=len(self._dataset.catalogue)), **counted}


def gathered(
    features: Sequence[Feature],
    queries: Queries,
    items: int,
    *,
    users: int,
    mask_history: bool,
    batch: int,
    new_items: Tensor | None = None,
) -> tuple[Evidence, Queries]:
    """Return what some of the queries say, evenly spaced over all, and these queries.

    They are `users` at most, and fewer where the catalogue of `items` is large; features see `batch` of them at once.
    """
    count = min(len(queries), users, max(2, _ELEMENTS // items))
    queries = queries.select(np.linspace(0, max(len(queries) - 1, 0), count).astype(np.int64))
    values = torch.zeros(len(features), count, items)
    for start, part in zip(range(0, count, batch), queries.asked().batches(batch), strict=True):
        for place, feature in enumerate(features):
            values[place, start : start + len(part)] = feature(part).cpu()
    masked = torch.zeros(count, items, dtype=torch.bool)
    if mask_history:
        masked = torch.isinf(mask_histories(torch.zeros(count, items), queries.histories))
    rows_of, targets = target_pairs(queries.targets, items)
    possible = ~masked[torch.from_numpy(rows_of), torch.from_numpy(targets)].numpy()
    new_items = None if new_items is None else new_items.cpu()
    return Evidence(values, masked, rows_of[possible], targets[possible], new_items), queries


def tried_on_halves(evidence: Evidence, queries: Queries, *, mask_history: bool) -> tuple[Floats, float, float]:
    """Return weights, and NDCG@10 of the first feature alone and of the mix, each half ranked with what the other half taught.

    The weights are those of all queries, or of the first feature alone where the mix does not rank better.
    """
    only_first = evidence.only_model()
    halves = [np.arange(start, len(queries), 2, dtype=np.int64) for start in (0, 1)]
    alone, mixed = [], []
    for learning, trying in (halves, halves[::-1]):
        weights, kept, asked = (
            learned_weights(evidence.select(learning)),
            evidence.select(trying),
            queries.select(trying),
        )
        alone.append(_ranked(kept, asked, only_first, mask_history=mask_history))
        mixed.append(_ranked(kept, asked, weights, mask_history=mask_history))
    of_first, of_mix = (mean_of_known(np.concatenate(each)) for each in (alone, mixed))
    better = len(halves[1]) and of_mix > of_first
    return learned_weights(evidence) if better else only_first, of_first, of_mix


def _log_probabilities(model: CatalogueScorer, queries: Queries, items: int) -> Tensor:
    return log_softmax(finite_scores(model, queries, items))


def _ranked(evidence: Evidence, queries: Queries, weights: Floats, *, mask_history: bool) -> Floats:
    """Return NDCG@10 of a mix for each query."""
    mixed = evidence.mixed(weights)
    quality = evaluate(
        Given(mixed), queries, mixed.shape[1], (10,), mask_history=mask_history, batch=max(1, len(queries))
    )
    return quality.values[KEY]
