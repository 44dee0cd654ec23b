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
    """

    features: Tensor
    masked: Tensor
    rows: Ints
    items: Ints

    def select(self, queries: Ints) -> Evidence:
        """Return the evidence of some queries, in ascending order."""
        kept = np.isin(self.rows, queries)
        place = torch.from_numpy(queries)
        rows = np.searchsorted(queries, self.rows[kept])
        return Evidence(self.features[:, place], self.masked[place], rows, self.items[kept])


def learned_weights(evidence: Evidence) -> Floats:
    """Return the weights [features], none negative, under which the targets are likeliest.

    With w the weights and f_s the features, p(i | query) = softmax_i(sum_s w_s f_s(i)) over the items that are not masked.
    Minimised is the mean over queries of the mean of -log p over the query's targets, plus PRIOR / 2 |w - (1, 0, ..., 0)|^2 /
    queries: a convex function, by L-BFGS-B with its gradient in closed form. Without any target it is the model alone.
    """
    count, queries, items = evidence.features.shape
    alone = np.zeros(count)
    alone[0] = 1.0
    asked, targets = np.unique(evidence.rows, return_counts=True)
    if not len(asked):
        return alone
    share = np.zeros(queries)
    share[asked] = 1.0 / targets
    row, item = torch.from_numpy(evidence.rows), torch.from_numpy(evidence.items)
    per_target = torch.from_numpy(share)[row]
    chosen = (evidence.features[:, row, item].double() * per_target).sum(dim=1).numpy()
    step = max(1, _CHUNK // max(1, items))
    chunks = [torch.from_numpy(asked[start : start + step]) for start in range(0, len(asked), step)]

    def objective(weights: Floats) -> tuple[float, Floats]:
        total, expected = 0.0, np.zeros(count)
        w = torch.from_numpy(weights).to(evidence.features.dtype)
        for rows in chunks:
            features = evidence.features[:, rows]
            mixed = torch.einsum("s,sqi->qi", w, features).masked_fill_(evidence.masked[rows], -torch.inf)
            normaliser = torch.logsumexp(mixed, dim=1)
            total += float(normaliser.double().sum())
            probabilities = mixed.sub_(normaliser[:, None]).exp_()
            expected += (features * probabilities).sum(dim=(1, 2)).double().numpy()
        away = weights - alone
        value = (total - float(chosen @ weights) + PRIOR / 2 * float(away @ away)) / len(asked)
        return value, (expected - chosen + PRIOR * away) / len(asked)

    found = minimize(objective, alone, jac=True, method="L-BFGS-B", bounds=[(0.0, None)] * count)
    weights: Floats = np.asarray(found.x, dtype=np.float64)
    return weights
