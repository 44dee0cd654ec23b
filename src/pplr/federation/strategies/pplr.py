"""Dynamic balance (Zhao et al., arXiv:2402.09959v2, section 3.2; docs/strategies.md)."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from pplr.federation.strategies.base import Cohort, Floats, Mixing, SimilarityOf, Strategy


class Pplr(Strategy):
    """Each client gets its own mix of all rows, by similarity, at a speed that depends on its loss.

        s_ci = (cos(x_c, x_i) + 1) / 2
        p_c  = softmax_c(L_c / tau)
        w_c  = tanh(alpha / p_c^(t / beta))
        d_cc = 1,  d_ci = w_c s_ci for i != c,  D = d with every row divided by its sum

    A client that finds its data hard learns from its own data first, and from the others more as the rounds go by.
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
    similarity: SimilarityOf = Field(
        "updates",
        description="What is compared: the rows (the paper; close to 1 for all pairs, since all start equal), or what "
        "this round changed in them.",
    )

    @property
    def similarity_of(self) -> SimilarityOf | None:
        """Return the setting `similarity`."""
        return self.similarity

    def mixing(self, cohort: Cohort) -> Mixing:
        """Return D; an absent client keeps its row and gives nothing to the others."""
        if cohort.gram is None:
            raise ValueError(f"The strategy pplr needs the Gram matrix of the clients' {self.similarity}.")
        present = cohort.present
        similarity = similarities(cohort.gram)
        speed = np.zeros(len(present))
        speed[present] = learning_speeds(cohort.losses[present], cohort.round, self.alpha, self.beta, self.tau)
        matrix = speed[:, None] * similarity * present[None, :] * present[:, None]
        np.fill_diagonal(matrix, 1.0)
        return Mixing(matrix / matrix.sum(axis=1, keepdims=True), {"learning_speed": speed, "similarity": similarity})


def similarities(gram: Floats) -> Floats:
    """Return s [clients, clients] in [0, 1] from inner products; a vector of length zero is at right angles to all."""
    norms = np.sqrt(np.clip(np.diag(gram), 0, None))
    products = np.outer(norms, norms)
    cosines = np.divide(gram, products, out=np.zeros_like(gram), where=products > 0)
    return np.asarray((np.clip(cosines, -1, 1) + 1) / 2, dtype=np.float64)


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
