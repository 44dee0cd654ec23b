"""The weights of a logarithmic opinion pool, by maximum likelihood."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from pplr.data.dataset import Ints
from pplr.evaluation.ranking import Floats

PRIOR = 1.0
"""Strength of the pull towards the model alone, in queries: what a handful of users says changes little."""
LEAST = 1e-3
"""The model's least weight where there are new items: nothing else says which of them comes first."""
_CHUNK = 1 << 20
"""Scores that are worked on at once, in elements."""


@dataclass(frozen=True)
class Evidence:
    """What the weights are learned from.

    Attributes:
        features: [features, queries, items] log-scores; the first is the model's.
        masked: [queries, items] items that cannot be chosen.
        rows: [targets] the query of each target; queries without targets say nothing.
        items: [targets] the item of each target, none of them masked.
        new_items: [items] bool, items of which no feature but the model's can say anything; None where none are known to be such.
    """

    features: Tensor
    masked: Tensor
    rows: Ints
    items: Ints
    new_items: Tensor | None = None

    def only_model(self) -> Floats:
        """Return the weights of the model alone: one for each feature, and behind them one for `new_items`, if there are."""
        weights = np.zeros(len(self.features) + (self.new_items is not None))
        weights[0] = 1.0
        return weights

    def mixed(self, weights: Floats, features: Tensor | None = None) -> Tensor:
        """Return what the weights make of the features of all queries, or of those given: [queries, items], masked items too."""
        features = self.features if features is None else features
        given = torch.from_numpy(weights).to(features.dtype)
        mixed = torch.einsum("s,sqi->qi", given[: len(features)], features)
        return mixed if self.new_items is None else mixed.add_(self.new_items * given[-1])

    def select(self, queries: Ints) -> Evidence:
        """Return the evidence of some queries, in ascending order."""
        kept = np.isin(self.rows, queries)
        place = torch.from_numpy(queries)
        rows = np.searchsorted(queries, self.rows[kept])
        return Evidence(self.features[:, place], self.masked[place], rows, self.items[kept], self.new_items)


def learned_weights(evidence: Evidence) -> Floats:
    """Return the weights under which the targets are likeliest: [features], none negative, and with `new_items` one number more.

    With w the weights, f_s the features, and b the number behind them, which may be negative,
    p(i | query) = softmax_i(sum_s w_s f_s(i) + b new(i)) over the items that are not masked. Minimised is the mean over queries of
    the mean of -log p over the query's targets, plus PRIOR / 2 |(w, b) - (1, 0, ..., 0)|^2 / queries: a convex function, by L-BFGS-B
    with its gradient in closed form. The model's weight is LEAST at least where there are new items, so that it tells them apart.
    Without any target it is the model alone.
    """
    alone, (count, queries, items) = evidence.only_model(), evidence.features.shape
    asked, targets = np.unique(evidence.rows, return_counts=True)
    if not len(asked):
        return alone
    share = np.zeros(queries)
    share[asked] = 1.0 / targets
    row, item = torch.from_numpy(evidence.rows), torch.from_numpy(evidence.items)
    per_target = torch.from_numpy(share)[row]
    chosen = (evidence.features[:, row, item].double() * per_target).sum(dim=1).numpy()
    if evidence.new_items is not None:
        chosen = np.append(chosen, float(per_target[evidence.new_items[item]].sum()))
    step = max(1, _CHUNK // max(1, items))
    chunks = [torch.from_numpy(asked[start : start + step]) for start in range(0, len(asked), step)]

    def objective(weights: Floats) -> tuple[float, Floats]:
        total, expected = 0.0, np.zeros(len(alone))
        for rows in chunks:
            features = evidence.features[:, rows]
            mixed = evidence.mixed(weights, features).masked_fill_(evidence.masked[rows], -torch.inf)
            normaliser = torch.logsumexp(mixed, dim=1)
            total += float(normaliser.double().sum())
            probabilities = mixed.sub_(normaliser[:, None]).exp_()
            expected[:count] += (features * probabilities).sum(dim=(1, 2)).double().numpy()
            if evidence.new_items is not None:
                expected[-1] += float(probabilities[:, evidence.new_items].double().sum())
        away = weights - alone
        value = (total - float(chosen @ weights) + PRIOR / 2 * float(away @ away)) / len(asked)
        return value, (expected - chosen + PRIOR * away) / len(asked)

    least = 0.0 if evidence.new_items is None else LEAST
    bounds = [(least, None), *[(0.0, None)] * (count - 1), *[(None, None)] * (len(alone) - count)]
    found = minimize(objective, alone, jac=True, method="L-BFGS-B", bounds=bounds)
    weights: Floats = np.asarray(found.x, dtype=np.float64)
    return weights
