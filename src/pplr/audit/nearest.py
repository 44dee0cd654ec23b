"""Nearest token by the layer's statistics.

The states of a token in public text have a mean, and all tokens together one covariance around their means. A state
is read as the token whose mean is nearest in the space where that covariance is the identity (linear discriminant
analysis, Fisher 1936). Behind the embedding alone a token has but one state, and the nearest mean is its embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pplr.audit.attack import Attack, Reader
from pplr.audit.observed import Observed


@dataclass(frozen=True)
class Statistics:
    """A layer's statistics.

    Attributes:
        tokens: [named] int64, ids of the tokens that were seen, ascending.
        labels: [states] which of `tokens` stands behind each state that the statistics were made of.
        centre: [width] mean of all states.
        whitening: [width, width], W such that (state - centre) @ W has the identity as covariance around the means.
        means: [named, width] whitened mean of each token.
    """

    tokens: Tensor
    labels: Tensor
    centre: Tensor
    whitening: Tensor
    means: Tensor

    def whitened(self, states: Tensor) -> Tensor:
        """Return whitened states [states, width]."""
        return (states - self.centre) @ self.whitening


def statistics(states: Tensor, tokens: Tensor, shrinkage: float) -> Statistics:
    """Return the statistics of states [states, width], with tokens [states] behind them.

    Args:
        states: of public text.
        tokens: ids.
        shrinkage: this share of the mean variance is added to the covariance around the means, so that it can be
            inverted; 0.001 of it is added of the variance of all states, which is there also where tokens have but
            one state each.
    """
    named, labels, counts = torch.unique(tokens, return_inverse=True, return_counts=True)
    centre = states.mean(dim=0)
    means = states.new_zeros(len(named), states.shape[1]).index_add_(0, labels, states) / counts[:, None]
    around = states - means[labels]
    within = around.T @ around / max(1, len(states) - len(named))
    width = states.shape[1]
    spread = float((states - centre).square().mean())
    ridge = shrinkage * (float(within.trace()) / width + 0.001 * spread)
    # the inverse of a Cholesky factor L of the covariance: L^-1 (x - centre) is white
    factor = torch.linalg.cholesky(within + max(ridge, 1e-12) * torch.eye(width))
    whitening = torch.linalg.solve_triangular(factor, torch.eye(width), upper=False).T
    return Statistics(named, labels, centre, whitening, (means - centre) @ whitening)


@dataclass(frozen=True)
class NearestToken(Attack):
    """Settings of the attack.

    Attributes:
        shrinkage: of the covariance (see `statistics`); above 0.
    """

    name: ClassVar[str] = "nearest token"
    shrinkage: float = 1e-3

    def fit(self, public: Observed, tokens: Tensor, seed: int) -> NearestReader:
        """Return the reader; nothing is drawn."""
        return NearestReader(statistics(public.states, tokens, self.shrinkage))


class NearestReader(Reader):
    """Names the token with the nearest mean."""

    def __init__(self, known: Statistics) -> None:
        self.tokens = known.tokens
        self._known = known

    def scores(self, observed: Observed) -> Tensor:
        """Return log-probabilities: every token's states are normally distributed around its mean."""
        states = self._known.whitened(observed.states)
        means = self._known.means
        return (states @ means.T - means.square().sum(dim=1) / 2).log_softmax(dim=1)
