"""Federated averaging with a proximal term (Li et al. 2020, arXiv:1812.06127, algorithm 2)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pplr.federation.strategies.base import Cohort, LocalObjective, Mixing, Strategy, averaging


class FedProx(Strategy):
    """Federated averaging of clients that may not go far: each minimises its loss plus a pull towards what it received.

        h_c(theta) = L_c(theta) + mu/2 ||theta - theta_received||^2

    The term counts what is shared; weight decay, clipping and AdamW work on the gradient of the sum. D is that of
    `fedavg`. Losses that are reported are L_c alone.
    """

    kind: Literal["fedprox"] = "fedprox"
    mu: float = Field(
        0.01, ge=0, le=1e6, description="Strength of the pull, 0 or more; 0 turns the strategy into `fedavg`."
    )

    @property
    def local_objective(self) -> LocalObjective:
        """Return the proximal term."""
        return LocalObjective(proximal=self.mu)

    def mixing(self, cohort: Cohort) -> Mixing:
        """Return n_i / sum(n) in every row."""
        return Mixing(averaging(cohort, cohort.sizes))
