"""A shared model and a personal one (Li et al. 2021, arXiv:2012.04221, algorithm 1)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pplr.federation.strategies.base import Cohort, LocalObjective, Mixing, Strategy, averaging


class Ditto(Strategy):
    """Each client trains the shared row for `fedavg`, and a personal row of its own that is pulled towards the shared one.

        v_c minimises L_c(v) + lambda/2 ||v - theta_received||^2

    The personal row starts as all rows do, is trained on the same batches as the shared one in every round in which its
    client takes part, is what the client is measured and served by, and never leaves it. Training costs twice as much.
    """

    kind: Literal["ditto"] = "ditto"
    pull: float = Field(
        0.1,
        ge=0,
        le=1e6,
        description="lambda: strength of the pull on personal rows, 0 or more; with 0 clients are measured as under "
        "`local`, and the larger it is, up to about 1, the closer to `fedavg`.",
    )

    @property
    def local_objective(self) -> LocalObjective:
        """Return the objective of personal rows."""
        return LocalObjective(personal=self.pull)

    @property
    def whole_rows(self) -> bool:
        """Return true: a server holds one row per client, not two."""
        return True

    def mixing(self, cohort: Cohort) -> Mixing:
        """Return n_i / sum(n) in every row: the shared model."""
        return Mixing(averaging(cohort, cohort.sizes))
