"""What a strategy sees and returns: numbers in, a mixing matrix out (docs/strategies.md)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

Floats = NDArray[np.float64]
SimilarityOf = Literal["parameters", "updates"]


@dataclass(frozen=True)
class Cohort:
    """The clients of one round, as a strategy sees them.

    Attributes:
        round: t = 1, 2, ...
        present: [clients] whether the client trained in this round, on at least one example.
        sizes: [clients] n_c, its number of training examples.
        losses: [clients] L_c, its mean training loss of this round; NaN where it was absent.
        gram: [clients, clients] inner products of the vectors that similarity is measured on; None if the strategy
            asked for none.
    """

    round: int
    present: NDArray[np.bool_]
    sizes: Floats
    losses: Floats
    gram: Floats | None = None


@dataclass(frozen=True)
class Mixing:
    """How the rows of all clients are combined.

    Attributes:
        matrix: D [clients, clients], every row sums to one: new row c = sum over i of D_ci times old row i.
        details: [clients] or [clients, clients] arrays by name, for the report (learning speed, similarity, ...).
    """

    matrix: Floats
    details: Mapping[str, Floats] = field(default_factory=dict)


class Strategy(BaseModel, ABC):
    """A way to combine the clients' rows. Subclasses are frozen; their fields are its hyper-parameters.

    Attributes:
        similarity_of: which vectors `Cohort.gram` is made of, or None.
        pools_data: the data of all clients is trained on in one place: a reference, not federated.
        exchanges: rows travel between clients and coordinator.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    pools_data: ClassVar[bool] = False
    exchanges: ClassVar[bool] = True

    @property
    def similarity_of(self) -> SimilarityOf | None:
        """Return which vectors the Gram matrix is needed of."""
        return None

    @abstractmethod
    def mixing(self, cohort: Cohort) -> Mixing:
        """Return D for this round. An absent client's row must not be read: its column is zero, but in its own row."""


def averaging(cohort: Cohort, weights: Floats) -> Floats:
    """Return D in which every row is `weights` [clients] over the present clients, scaled to sum to one.

    Where nobody present has any weight there is nothing to average, and D is the identity.
    """
    shares = np.where(cohort.present, weights, 0.0)
    if shares.sum() == 0:
        return np.eye(len(shares))
    return np.tile(shares / shares.sum(), (len(shares), 1))
