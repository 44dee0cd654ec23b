"""Federated averaging (McMahan et al. 2017, arXiv:1602.05629, algorithm 1)."""

from __future__ import annotations

from typing import Literal

from pplr.federation.strategies.base import Cohort, Mixing, Strategy, averaging


class FedAvg(Strategy):
    """One model for everybody: every row of D is n / sum(n) over the clients that trained.

    Absent clients receive the average too, as the next global model.
    """

    kind: Literal["fedavg"] = "fedavg"

    def mixing(self, cohort: Cohort) -> Mixing:
        """Return n_i / sum(n) in every row."""
        return Mixing(averaging(cohort, cohort.sizes))
