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
        unchosen: [items] bool, items of which no feature but the model's can say anything; None where there are none.
    """

    features: Tensor
    masked: Tensor
    rows: Ints
    items: Ints
    unchosen: Tensor | None = None

    @property
    def only_model(self) -> Floats:
        """The weights of the model alone: one for each feature, and one for items that are `unchosen`."""
        weights = np.zeros(len(self.features) + (self.unchosen is not None))
        weights[0] = 1.0
        return weights

    def mixed(self, weights: Floats) -> Tensor:
        """Return what the weights make of it, [queries, items]; masked items too."""
        return self._mixed(weights, self.features)

    def mixed_rows(self, weights: Floats, rows: Tensor) -> Tensor:
        """Return what the weights make of some queries, [rows, items], with masked items at minus infinity."""
        return self._mixed(weights, self.features[:, rows]).masked_fill_(self.masked[rows], -torch.inf)

    def _mixed(self, weights: Floats, features: Tensor) -> Tensor:
        given = torch.from_numpy(weights).to(features.dtype)
        mixed = torch.einsum("s,sqi->qi", given[: len(features)], features)
        return mixed if self.unchosen is None else mixed.add_(self.unchosen * given[-1])

    def select(self, queries: Ints) -> Evidence:
        """Return the evidence of some queries, in ascending order."""
        kept = np.isin(self.rows, queries)
        place = torch.from_numpy(queries)
        rows = np.searchsorted(queries, self.rows[kept])
        return Evidence(self.features[:, place], self.masked[place], rows, self.items[kept], self.unchosen)


def learned_weights(evidence: Evidence) -> Floats:
    """Return the weights [features] under which the targets are likeliest, none negative; with `unchosen`, one more behind them.

    With w the weights and f_s the features, p(i | query) = softmax_i(sum_s w_s f_s(i) + b unchosen(i)) over the items that are not
    masked; b, which may be negative, stands last. Minimised is the mean over queries of the mean of -log p over the query's
    targets, plus PRIOR / 2 |(w, b) - (1, 0, ..., 0)|^2 / queries: a convex function, by L-BFGS-B with its gradient in closed form.
    Without any target it is the model alone.
    """
    alone, (count, queries, items) = evidence.only_model, evidence.features.shape
    asked, targets = np.unique(evidence.rows, return_counts=True)
    if not len(asked):
        return alone
    share = np.zeros(queries)
    share[asked] = 1.0 / targets
    row, item = torch.from_numpy(evidence.rows), torch.from_numpy(evidence.items)
    per_target = torch.from_numpy(share)[row]
    chosen = (evidence.features[:, row, item].double() * per_target).sum(dim=1).numpy()
    if evidence.unchosen is not None:
        chosen = np.append(chosen, float(per_target[evidence.unchosen[item]].sum()))
    step = max(1, _CHUNK // max(1, items))
    chunks = [torch.from_numpy(asked[start : start + step]) for start in range(0, len(asked), step)]

    def objective(weights: Floats) -> tuple[float, Floats]:
        total, expected = 0.0, np.zeros(len(alone))
        for rows in chunks:
            mixed = evidence.mixed_rows(weights, rows)
            normaliser = torch.logsumexp(mixed, dim=1)
            total += float(normaliser.double().sum())
            probabilities = mixed.sub_(normaliser[:, None]).exp_()
            expected[:count] += (evidence.features[:, rows] * probabilities).sum(dim=(1, 2)).double().numpy()
            if evidence.unchosen is not None:
                expected[-1] += float(probabilities[:, evidence.unchosen].double().sum())
        away = weights - alone
        value = (total - float(chosen @ weights) + PRIOR / 2 * float(away @ away)) / len(asked)
        return value, (expected - chosen + PRIOR * away) / len(asked)

    bounds = [(0.0, None)] * count + [(None, None)] * (len(alone) - count)
    found = minimize(objective, alone, jac=True, method="L-BFGS-B", bounds=bounds)
    weights: Floats = np.asarray(found.x, dtype=np.float64)
    return weights
