"""One client's statistics, counted on its own training events, and how far it trusts them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

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
        evidence, queries = self._evidence(model, validation, mask_history=mask_history, batch=batch)
        names = [MODEL, *self.statistics, *([] if evidence.new_items is None else [NEW])]
        only_model = evidence.only_model()
        halves = [np.arange(start, len(queries), 2, dtype=np.int64) for start in (0, 1)]
        alone, mixed = [], []
        for learning, trying in (halves, halves[::-1]):
            weights, kept, asked = (
                learned_weights(evidence.select(learning)),
                evidence.select(trying),
                queries.select(trying),
            )
            alone.append(_ranked(kept, asked, only_model, mask_history=mask_history))
            mixed.append(_ranked(kept, asked, weights, mask_history=mask_history))
        both = Learned({}, mean_of_known(np.concatenate(alone)), mean_of_known(np.concatenate(mixed)), len(queries))
        found = learned_weights(evidence) if len(halves[1]) and both.mixed > both.alone else only_model
        return replace(both, weights=dict(zip(names, found.tolist(), strict=True)))

    def _evidence(
        self, model: CatalogueScorer, queries: Queries, *, mask_history: bool, batch: int
    ) -> tuple[Evidence, Queries]:
        """Return what some of the queries say, evenly spaced over all, and these queries."""
        items = len(self._dataset.catalogue)
        count = min(len(queries), self._settings.users, max(2, _ELEMENTS // items))
        queries = queries.select(np.linspace(0, max(len(queries) - 1, 0), count).astype(np.int64))
        features = torch.zeros(1 + len(self.statistics), count, items)
        for start, part in zip(range(0, count, batch), queries.asked().batches(batch), strict=True):
            rows = slice(start, start + len(part))
            features[0, rows] = log_softmax(finite_scores(model, part, items)).cpu()
            for place, statistic in enumerate(self.statistics.values(), start=1):
                features[place, rows] = statistic_feature(statistic, part, self._now)
        masked = torch.zeros(count, items, dtype=torch.bool)
        if mask_history:
            masked = torch.isinf(mask_histories(torch.zeros(count, items), queries.histories))
        rows_of, targets = target_pairs(queries.targets, items)
        possible = ~masked[torch.from_numpy(rows_of), torch.from_numpy(targets)].numpy()
        new_items = self._new_items(model)
        new_items = None if new_items is None else new_items.cpu()
        return Evidence(features, masked, rows_of[possible], targets[possible], new_items), queries


def _ranked(evidence: Evidence, queries: Queries, weights: Floats, *, mask_history: bool) -> Floats:
    """Return NDCG@10 of a mix for each query."""
    mixed = evidence.mixed(weights)
    quality = evaluate(
        Given(mixed), queries, mixed.shape[1], (10,), mask_history=mask_history, batch=max(1, len(queries))
    )
    return quality.values[KEY]
