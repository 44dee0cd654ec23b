"""Dynamic balance (Zhao et al., arXiv:2402.09959v2, section 3.2; docs/strategies.md)."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field
from torch import Tensor

from pplr.federation.strategies.base import Aggregator, Cohort, Floats, Mixing, SimilarityOf, Strategy
from pplr.federation.strategies.product import ProductMean
from pplr.models.layout import Layout


class Pplr(Strategy):
    """Each client gets its own mix of all rows, by similarity, at a speed that depends on its loss.

        s_ci = (cos(x_c, x_i) + 1) / 2
        p_c  = softmax_c(L_c / tau)
        w_c  = tanh(alpha / p_c^(t / beta))
        d_cc = 1,  d_ci = w_c s_ci for i != c,  D = d with every row divided by its sum

    A client that finds its data hard learns from its own data first, and from the others more as the rounds go by.

    The options below `similarity` are ours, and as they stand by default the method is the paper's. In this order: s is
    raised to 1 / temperature, with the sum over the others kept; w is 1 without `speed`; every column i of d is multiplied
    by n_i where `by_size`; the diagonal of D is raised to `self_weight`, at the others' cost in proportion. With
    similarity "none", no speed, and by size, D is that of `fedavg` (but absent clients keep their rows).
    """

    kind: Literal["pplr"] = "pplr"
    alpha: float = Field(
        0.7, ge=0, description="Learning speed from the others, 0 or more; 0 turns the strategy into `local`."
    )
    beta: float = Field(
        5.0, gt=0, description="Time scale in rounds: the larger, the longer hard clients keep to themselves."
    )
    tau: float = Field(
        1.0, gt=0, description="Temperature of the shares of difficulty: 1 in the paper, 0.05 in its released code."
    )
    similarity: Literal["parameters", "updates", "none"] = Field(
        "updates",
        description="What is compared: the rows (parameters: the paper; close to 1 for all pairs, since all start equal), "
        "what this round changed in them (updates), or nothing (none: s is 1).",
    )
    temperature: float = Field(
        1.0,
        gt=0,
        le=1e6,
        description="Below 1 the most similar clients get more of what a client takes from the others, above 1 all get "
        "more alike; 1 is the paper's.",
    )
    speed: bool = Field(True, description="Learning speeds by loss and round; false: w is 1 from the first round on.")
    by_size: bool = Field(False, description="Clients weigh by their numbers of training examples too.")
    self_weight: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Least weight of a client's own row in its mix; 0 sets no limit, 1 turns the strategy into `local`.",
    )
    products: bool = Field(False, description="Mix the adapters' products, as `product` does, not their factors.")

    @property
    def similarity_of(self) -> SimilarityOf | None:
        """Return the setting `similarity`."""
        return None if self.similarity == "none" else self.similarity

    @property
    def whole_rows(self) -> bool:
        """Return whether products are mixed."""
        return self.products

    def aggregator(self, layout: Layout, initial_row: Tensor) -> Aggregator | None:
        """Return what mixes products, where they are to be mixed.

        Raises:
            ConfigError: the layout shares no whole adapter.
        """
        return ProductMean(layout, "strategy.products = true") if self.products else None

    def mixing(self, cohort: Cohort) -> Mixing:
        """Return D; an absent client keeps its row and gives nothing to the others."""
        if cohort.gram is None and self.similarity_of is not None:
            raise ValueError(f"The strategy pplr needs the Gram matrix of the clients' {self.similarity}.")
        present = cohort.present
        similarity = np.ones((len(present),) * 2) if cohort.gram is None else similarities(cohort.gram)
        speed = np.zeros(len(present))
        if self.speed:
            speed[present] = learning_speeds(cohort.losses[present], cohort.round, self.alpha, self.beta, self.tau)
        else:
            speed[present] = float(self.alpha > 0)
        matrix = speed[:, None] * similarity * present[None, :] * present[:, None]
        np.fill_diagonal(matrix, 1.0)
        if self.temperature != 1:
            matrix = sharpened(matrix, self.temperature)
        if self.by_size:
            matrix = matrix * np.where(cohort.sizes > 0, cohort.sizes, 1.0)
        matrix = at_least(matrix / matrix.sum(axis=1, keepdims=True), self.self_weight)
        return Mixing(matrix, {"learning_speed": speed, "similarity": similarity})


def similarities(gram: Floats) -> Floats:
    """Return s [clients, clients] in [0, 1] from inner products; a vector of length zero is at right angles to all."""
    norms = np.sqrt(np.clip(np.diag(gram), 0, None))
    products = np.outer(norms, norms)
    cosines = np.divide(gram, products, out=np.zeros_like(gram), where=products > 0)
    return np.asarray((np.clip(cosines, -1, 1) + 1) / 2, dtype=np.float64)


def sharpened(weights: Floats, temperature: float) -> Floats:
    """Return `weights` [clients, clients] with those off the diagonal raised to 1 / temperature, their sums per row kept.

    Worked out in logarithms, so that no power underflows; zeros stay zeros.
    """
    others = weights * (1 - np.eye(len(weights)))
    with np.errstate(divide="ignore"):
        scaled = np.log(others) / temperature
    largest = scaled.max(axis=1, keepdims=True, initial=-np.inf)
    powers = np.exp(scaled - np.where(np.isfinite(largest), largest, 0.0))
    sums = powers.sum(axis=1, keepdims=True)
    shares = np.divide(powers, sums, out=np.zeros_like(powers), where=sums > 0)
    return np.asarray(shares * others.sum(axis=1, keepdims=True) + np.diag(np.diag(weights)), dtype=np.float64)


def at_least(matrix: Floats, own: float) -> Floats:
    """Return D [clients, clients] with a diagonal of `own` at least; what the others give up is in proportion."""
    diagonal = np.diag(matrix)
    low = diagonal < own
    rest = np.divide(1 - own, 1 - diagonal, out=np.ones_like(diagonal), where=low)
    raised = matrix * rest[:, None]
    np.fill_diagonal(raised, np.where(low, own, diagonal))
    return raised


def learning_speeds(losses: Floats, round_number: int, alpha: float, beta: float, tau: float) -> Floats:
    """Return w [clients] in [0, 1]: tanh(alpha / p^(t / beta)), p the softmax of losses / tau.

    Worked out in logarithms: p^(t / beta) itself underflows for many clients or late rounds.
    """
    if alpha == 0 or losses.size == 0:
        return np.zeros_like(losses)
    scaled = losses / tau
    shifted = scaled - scaled.max()
    log_shares = shifted - np.log(np.exp(shifted).sum())
    exponent = np.log(alpha) - (round_number / beta) * log_shares
    return np.asarray(np.tanh(np.exp(np.minimum(exponent, 50.0))), dtype=np.float64)
