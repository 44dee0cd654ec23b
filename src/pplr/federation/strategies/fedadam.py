"""An adaptive server optimiser (Reddi et al. 2021, arXiv:2003.00295, algorithm 2, FedAdam)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from pplr.errors import CheckpointError
from pplr.federation.strategies.base import Aggregator, Cohort, Mixing, Strategy, averaging
from pplr.models.bank import blocks
from pplr.models.layout import Layout


class FedAdam(Strategy):
    """One model for everybody; the server takes an Adam step along the average of what the clients changed.

        Delta = sum over c of n_c / sum(n) (theta_c - x)      x: the server's model
        m = beta1 m + (1 - beta1) Delta,   v = beta2 v + (1 - beta2) Delta^2
        x = x + eta m / (sqrt(v) + tau)

    As in the paper, moments are not corrected for their start: m is 0 and v is tau^2 before the first round. With beta1 =
    beta2 = 0 and eta = tau far above any change, x + Delta is left: `fedavg`. With eta = 0 nothing is learned.
    """

    kind: Literal["fedadam"] = "fedadam"
    eta: float = Field(
        0.01,
        ge=0,
        le=1e6,
        description="The server's learning rate: about how far a number moves per round; 0 stands still.",
    )
    beta1: float = Field(0.9, ge=0, lt=1, description="Memory of the mean of changes; 0 has none.")
    beta2: float = Field(0.99, ge=0, lt=1, description="Memory of the mean square of changes; 0 has none.")
    tau: float = Field(
        1e-3,
        gt=0,
        le=1e6,
        description="Degree of adaptivity: changes well below it keep their sizes; with eta = tau far above all changes, "
        "and no memory, the strategy is `fedavg`.",
    )

    @property
    def whole_rows(self) -> bool:
        """Return true: the moments are the coordinator's."""
        return True

    def aggregator(self, layout: Layout, initial_row: Tensor) -> Aggregator:
        """Return the server's optimiser."""
        return ServerAdam(self, initial_row)

    def mixing(self, cohort: Cohort) -> Mixing:
        """Return n_i / sum(n) in every row: the average that the step is taken along."""
        return Mixing(averaging(cohort, cohort.sizes))


class ServerAdam(Aggregator):
    """The server's model and its moments, [S] each."""

    def __init__(self, settings: FedAdam, initial_row: Tensor) -> None:
        self._settings = settings
        self._state = {
            "model": initial_row.clone(),
            "first": torch.zeros_like(initial_row),
            "second": torch.full_like(initial_row, settings.tau**2),
        }

    def combine_(self, rows: Tensor, mixing: Mixing, cohort: Cohort, received: Tensor | None = None) -> None:
        """Take a step, and give everybody the model."""
        if mixing.matrix is None or not cohort.present.any():
            return
        settings = self._settings
        present = torch.from_numpy(cohort.present).to(rows.device)
        shares = torch.from_numpy(mixing.matrix[0][cohort.present]).to(rows)
        for block in blocks(*rows.shape):
            model, first, second = (self._state[name][block] for name in ("model", "first", "second"))
            change = shares @ (rows[present, block] - model)
            first.mul_(settings.beta1).add_(change, alpha=1 - settings.beta1)
            second.mul_(settings.beta2).addcmul_(change, change, value=1 - settings.beta2)
            model.add_(first / (second.sqrt() + settings.tau), alpha=settings.eta)
            rows[:, block] = model

    def state(self) -> dict[str, Tensor]:
        """Return model and moments."""
        return dict(self._state)

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` returned.

        Raises:
            CheckpointError: it is not such a state.
        """
        if state.keys() != self._state.keys():
            raise CheckpointError(
                "The checkpoint lacks the moments of the server's optimiser. Start again without --resume, in another folder."
            )
        self._state = {name: state[name].to(own).clone() for name, own in self._state.items()}
