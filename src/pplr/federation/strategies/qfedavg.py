"""Fair aggregation (Li et al. 2020, arXiv:1905.10497, algorithm 2, q-FedAvg)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from pplr.errors import CheckpointError
from pplr.federation.strategies.base import Aggregator, Cohort, Floats, Mixing, SimilarityOf, Strategy, averaging
from pplr.models.bank import blocks
from pplr.models.layout import Layout

_LEAST_LOSS = 1e-10
"""Losses count as this much at least, as in the authors' program: q below 1 would divide by zero."""


class QFedAvg(Strategy):
    """One model for everybody that leans towards the clients with large losses, by minimising sum of p_c F_c^(q+1) / (q+1).

        Delta_c = L (x - theta_c),   h_c = q F_c^(q-1) ||Delta_c||^2 + L F_c^q
        x = x - sum of p_c F_c^q Delta_c / sum of p_c h_c

    F_c is the mean training loss of the round, p_c = n_c / sum(n): the paper draws clients by p_c instead, here all that
    trained count by it. L is the Lipschitz constant of the gradient, in the paper the inverse of SGD's learning rate; it
    dampens the step where rows have moved far. After AdamW, which moves every number by its own rate, ||theta_c - x|| is
    large, and only an L far below that is of use.
    """

    kind: Literal["qfedavg"] = "qfedavg"
    q: float = Field(
        1.0, ge=0, le=100, description="Fairness: the larger, the more the worst client counts; 0 is `fedavg`."
    )
    lipschitz: float = Field(
        0.0,
        ge=0,
        le=1e9,
        description="L: how much far moves shorten the step; 0 shortens none, and only weighs by F^q.",
    )

    @property
    def similarity_of(self) -> SimilarityOf | None:
        """Return "updates" where their lengths count."""
        return "updates" if self.q > 0 and self.lipschitz > 0 else None

    @property
    def whole_rows(self) -> bool:
        """Return whether the step starts from the server's model, which D does not tell."""
        return self.similarity_of is not None

    def aggregator(self, layout: Layout, initial_row: Tensor) -> Aggregator | None:
        """Return the step from the server's model, where it is shortened."""
        return None if self.similarity_of is None else ServerStep(initial_row)

    def mixing(self, cohort: Cohort) -> Mixing:
        """Return p_i F_i^q, scaled to a sum of one, in every row, and the length of the step towards that average."""
        count = len(cohort.present)
        scale = np.max(cohort.losses[cohort.present], initial=_LEAST_LOSS)
        ratios = np.where(cohort.present, np.maximum(cohort.losses, _LEAST_LOSS) / scale, 1.0)
        weights = np.where(cohort.present, cohort.sizes * ratios**self.q, 0.0)
        length = self._length(cohort, weights, ratios * scale)
        return Mixing(averaging(cohort, weights), {"step_length": np.full(count, length)})

    def _length(self, cohort: Cohort, weights: Floats, losses: Floats) -> float:
        """Return L sum(p F^q) / sum(p h) in (0, 1]: how far the server goes from its model to the weighted average."""
        if self.similarity_of is None or not weights.any():
            return 1.0
        if cohort.gram is None:
            raise ValueError("The strategy qfedavg needs the Gram matrix of the clients' updates.")
        squared = np.diag(cohort.gram)
        dampening = self.q * self.lipschitz * float((weights / losses * squared).sum())
        return float(weights.sum() / (weights.sum() + dampening))


class ServerStep(Aggregator):
    """The server's model [S], and steps from it towards the average."""

    def __init__(self, initial_row: Tensor) -> None:
        self._model = initial_row.clone()

    def combine_(self, rows: Tensor, mixing: Mixing, cohort: Cohort, received: Tensor | None = None) -> None:
        """Go `step_length` of the way from the model to the average, and give everybody the model."""
        if mixing.matrix is None or not cohort.present.any():
            return
        length = float(mixing.details["step_length"][0])
        present = torch.from_numpy(cohort.present).to(rows.device)
        shares = torch.from_numpy(mixing.matrix[0][cohort.present]).to(rows)
        for block in blocks(*rows.shape):
            self._model[block] += length * (shares @ rows[present, block] - self._model[block])
            rows[:, block] = self._model[block]

    def state(self) -> dict[str, Tensor]:
        """Return the model."""
        return {"model": self._model}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` returned.

        Raises:
            CheckpointError: it is not such a state.
        """
        if "model" not in state:
            raise CheckpointError(
                "The checkpoint lacks the server's model. Start again without --resume, in another folder."
            )
        self._model = state["model"].to(self._model).clone()
