"""Coordinate-wise median and trimmed mean (Yin et al. 2018, arXiv:1803.01498, definitions 1 and 2)."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from pplr.federation.strategies.base import Aggregator, Cohort, Mixing, Strategy
from pplr.models.bank import blocks
from pplr.models.layout import Layout


class Robust(Strategy):
    """One model for everybody, number by number the median or a trimmed mean: a few wrong clients cannot move it far.

    Clients count alike, whatever their sizes: a client could lie about its size. There is no D. With trim = 0 the trimmed
    mean is `fedavg` of clients of equal sizes.
    """

    kind: Literal["robust"] = "robust"
    method: Literal["median", "trimmed_mean"] = Field("median", description="What is taken of each number.")
    trim: float = Field(
        0.2,
        ge=0,
        lt=0.5,
        description="beta: share of the clients that is left out at either end by trimmed_mean, rounded down; 0 is the "
        "plain mean.",
    )

    @property
    def whole_rows(self) -> bool:
        """Return true: numbers are sorted where the rows are."""
        return True

    def aggregator(self, layout: Layout, initial_row: Tensor) -> Aggregator:
        """Return what sorts."""
        return MiddleMean(self)

    def mixing(self, cohort: Cohort) -> Mixing:
        """Return that there is no matrix."""
        return Mixing(None)

    def left_out(self, clients: int) -> int:
        """Return how many of `clients` are left out at either end: of the median, all but one or two."""
        return (clients - 1) // 2 if self.method == "median" else int(self.trim * clients + 1e-9)


class MiddleMean(Aggregator):
    """Means of the middle values of each number."""

    def __init__(self, settings: Robust) -> None:
        self._settings = settings

    def combine_(self, rows: Tensor, mixing: Mixing, cohort: Cohort, received: Tensor | None = None) -> None:
        """Give everybody the mean of the middle values."""
        count = int(cohort.present.sum())
        if not count:
            return
        cut = self._settings.left_out(count)
        present = torch.from_numpy(cohort.present).to(rows.device)
        for block in blocks(4 * len(rows), rows.shape[1]):  # sorting takes the values twice more, and their places
            rows[:, block] = rows[present, block].sort(dim=0).values[cut : count - cut].mean(0)
