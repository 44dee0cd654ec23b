"""What a strategy sees and returns: numbers in, a mixing matrix out (docs/strategies.md)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from pplr.errors import CheckpointError
from pplr.models.layout import Layout, ParameterSpec

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
        distances: [clients, clients] Euclidean distances between the trained rows; None if the strategy asked for none.
        newcomers: [clients] whether the client was away when it was asked before, and has never trained before this
            round; None: nobody.
    """

    round: int
    present: NDArray[np.bool_]
    sizes: Floats
    losses: Floats
    gram: Floats | None = None
    distances: Floats | None = None
    newcomers: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class Mixing:
    """How the rows of all clients are combined.

    Attributes:
        matrix: D [clients, clients], every row sums to one: new row c = sum over i of D_ci times old row i, or what an
            `Aggregator` makes of it; None where no matrix says what it does.
        details: [clients] or [clients, clients] arrays by name, for the report (learning speed, similarity, ...).
    """

    matrix: Floats | None
    details: Mapping[str, Floats] = field(default_factory=dict)


@dataclass(frozen=True)
class LocalObjective:
    """What a client minimises beside its loss, and by what means.

    Attributes:
        proximal: mu of mu/2 ||theta - theta_received||^2 over what it shares; 0 for none.
        personal: lambda of the same term in the training of a second, personal row, by which the client is measured;
            None where it has no such row.
        own_items: the client trains its own items only, in tables of items that are shared; a personal row trains all.
    """

    proximal: float = 0.0
    personal: float | None = None
    own_items: bool = False


class Aggregator(ABC):
    """Combines the rows themselves, where sums of rows by D are not what is wanted.

    Attributes:
        needs_received: `combine_` is to be told what the clients had received.
        by_matrix: adapters are mixed by D, as they are without an aggregator.
    """

    needs_received: bool = False
    by_matrix: bool = False

    @abstractmethod
    def combine_(self, rows: Tensor, mixing: Mixing, cohort: Cohort, received: Tensor | None = None) -> None:
        """Replace `rows` [clients, S] by the new ones, block by block; what an absent client holds must not be read by others.

        Where nobody was present nothing changes. `received` [clients, S] are the rows before training.
        """

    def state(self) -> dict[str, Tensor]:
        """Return all that the next rounds depend on beside the rows, by name."""
        return {}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` returned.

        Raises:
            CheckpointError: it is the state of another strategy.
        """
        if state:
            raise CheckpointError(
                "The checkpoint holds what another strategy's server remembers. Start again without --resume, in another "
                "folder."
            )


class Strategy(BaseModel, ABC):
    """A way to combine the clients' rows. Subclasses are frozen; their fields are its hyper-parameters.

    Attributes:
        similarity_of: which vectors `Cohort.gram` is made of, or None.
        needs_distances: `Cohort.distances` is needed.
        local_objective: what clients minimise beside their loss.
        refactors: adapters are made anew from products, so that nothing fits them that is remembered of single numbers.
        whole_rows: it must have all of a client's row in one place, so that no server can hold a part of the layers.
        pools_data: the data of all clients is trained on in one place: a reference, not federated.
        exchanges: rows travel between clients and coordinator.
        scopes: `scope` marks parameters, so that whoever holds a part of the layers must have the same settings.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    pools_data: ClassVar[bool] = False
    exchanges: ClassVar[bool] = True
    scopes: ClassVar[bool] = False

    @property
    def similarity_of(self) -> SimilarityOf | None:
        """Return which vectors the Gram matrix is needed of."""
        return None

    @property
    def needs_distances(self) -> bool:
        """Return whether the distances between rows are needed."""
        return False

    @property
    def local_objective(self) -> LocalObjective:
        """Return what clients minimise beside their loss."""
        return LocalObjective()

    @property
    def refactors(self) -> bool:
        """Return whether the factors of adapters are made anew."""
        return False

    @property
    def whole_rows(self) -> bool:
        """Return whether all of a row must be in one place."""
        return False

    def scope(self, specs: Sequence[ParameterSpec], depth: int | None = None) -> Sequence[ParameterSpec]:
        """Return the parameters, with those marked private or frozen that are not to be mixed or not to be trained.

        `depth` is the number of layers of the whole model, where `specs` are those of some of its layers in the middle.

        Raises:
            ConfigError: the strategy needs parameters that are not among them.
        """
        return specs

    def aggregator(self, layout: Layout, initial_row: Tensor) -> Aggregator | None:
        """Return what combines the rows, from the shared row [S] that all start from; None: D alone.

        Raises:
            ConfigError: the strategy needs parameters that the layout does not share.
        """
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
