"""What a recommender is made of, as far as training, federation and evaluation are concerned.

A backbone owns frozen weights and the public catalogue; it owns no client. Everything that differs between clients
comes in as `parameters`: the named parts of one row of the adapter bank.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Generic, Literal, Protocol, Self, TypeVar

import torch
from pydantic import Field
from torch import Tensor

from pplr.data.dataset import Ints, Queries, Ragged
from pplr.models.item_reader import Lesson
from pplr.models.layout import Layout
from pplr.models.lora import Adapted, Lora
from pplr.models.parts.passing import Trunk

Parameters = Mapping[str, Tensor]
Refresh = Literal["round", "epoch"]
Contrast = Annotated[
    Literal["catalogue", "known", "own"],
    Field(
        description="Items from which training tells the chosen one apart: known to some client, as shared biases or "
        "residuals tell (where there are none, and with strategy.kind = 'local', it has to be the whole catalogue); the whole "
        "catalogue; or those of the client's own examples. Only the whole catalogue pushes down what nobody has chosen yet."
    ),
]

NewBias = Annotated[
    Literal["mean", "zero"],
    Field(
        description="Bias of an item that nobody has chosen, as far as shared biases or residuals tell after training among known or "
        "own items: the mean of all others (mean), or 0, where it began (zero). Training pushes most biases below 0, so that "
        "zero puts new items before most known ones."
    ),
]


def contrasted(contrast: Contrast, own: Tensor, shared: Tensor | None) -> Tensor | None:
    """Return the codes of the items that training tells apart, ascending; None for the whole catalogue.

    An item is known to some client if its row of a shared table has moved away from zero, where all rows begin; what nobody
    trains with stays there, weight decay or not. So in the first round a client knows its own items only, and later what it has
    received tells it of (a median of rows tells nothing of an item that few have moved). Where no table is shared, any item may be
    known to others, and all are told apart.

    Args:
        contrast: which items.
        own: codes of the items of the client's own examples, ascending.
        shared: [items, ...] its values of a table that all clients share (`shared_table`); None if they share none.
    """
    if contrast == "own":
        return own
    if contrast == "catalogue" or shared is None:
        return None
    return _moved(shared).index_fill(0, own, True).nonzero().squeeze(1)


def new_items(contrast: Contrast, layout: Layout, parameters: Parameters, names: Sequence[str]) -> Tensor | None:
    """Return [items] bool: items that nobody has chosen, as far as the tables among `names` tell that all clients share.

    They are those whose rows have not moved away from zero in any of these tables. None where no table is shared, where all rows
    have moved or none, and after training among the whole catalogue, which moves them for another reason. Also told are items of
    examples that were left out, and under a median of rows those of few clients.
    """
    shared = {spec.name for spec in layout.specs if not spec.private}
    tables = [parameters[name] for name in names if name in shared]
    if contrast == "catalogue" or not tables:
        return None
    still = ~_moved(tables[0])
    for table in tables[1:]:
        left = still.nonzero().squeeze(1)  # few, once there was training: wide tables are not read whole
        still[left] = ~_moved(table[left])
    return still if bool(still.any()) and not bool(still.all()) else None


def as_measured(
    contrast: Contrast, how: NewBias, layout: Layout, parameters: Parameters, names: Sequence[str]
) -> tuple[Parameters, Tensor | None]:
    """Return the parameters as they are measured and recommend, and which items are new, [items] bool, where that is known.

    Arguments are those of `new_items` and `with_new_bias`.
    """
    told = new_items(contrast, layout, parameters, names)
    return with_new_bias(how, parameters, told), told


def with_new_bias(how: NewBias, parameters: Parameters, told: Tensor | None) -> Parameters:
    """Return the parameters with another bias of the items that are `told` to be new, [items] bool, where there are such and a bias."""
    if how == "zero" or told is None or "bias" not in parameters:
        return parameters
    bias = parameters["bias"]
    return {**parameters, "bias": torch.where(told, bias[~told].mean(), bias)}


def _moved(table: Tensor) -> Tensor:
    """Return [items] bool: the rows of a table of items that are not zero."""
    moved = table.detach() != 0
    return moved if moved.dim() == 1 else moved.flatten(1).any(1)


def shared_table(layout: Layout, parameters: Parameters, names: Sequence[str]) -> Tensor | None:
    """Return the first of these tables that the layout has, and not as private to a client; None where there is none."""
    shared = {spec.name for spec in layout.specs if not spec.private}
    return next((parameters[name] for name in names if name in shared), None)


def beyond(among: Tensor, items: int) -> float:
    """Return what makes a target's loss among some items [k] comparable with one among all `items`: log(items / k).

    It is the loss that remains if all items are equally likely to be among those. Strategies compare clients' losses, and
    who has fewer items has the easier task; gradients do not see it.
    """
    return math.log(items / len(among))


class Examples(Protocol):
    """Training examples of one client, ready to be batched.

    Attributes:
        lengths: [n] length of each example in tokens (for the sequence backbone: items).
    """

    @property
    def lengths(self) -> Ints: ...  # noqa: D102

    def __len__(self) -> int: ...

    def select(self, rows: Ints) -> Self:
        """Return the given examples, in the given order."""


class CatalogueScorer(ABC):
    """Scores every item of the catalogue for a batch of users, with one client's parameters.

    Attributes:
        nothing: the score of items about which the scorer knows nothing; they tie in rankings, and are never
            recommended. Minus infinity where every item has a score of its own.
        new_items: [items] bool, items that nobody has chosen, as far as it can tell; None where it cannot.
    """

    nothing: float = -math.inf
    new_items: Tensor | None = None

    @abstractmethod
    def scores(self, queries: Queries, wanted: int = 0) -> Tensor:
        """Return [len(queries), items] float scores, higher is better.

        A scorer that searches, instead of comparing all items, searches widely enough to find `wanted` items outside
        of each history.
        """


@dataclass(frozen=True)
class Loss:
    """Negative log-likelihood of a batch.

    Attributes:
        total: scalar tensor, summed over target tokens (items, for backbones that predict items at once).
        targets: number of target tokens it is summed over.
        tokens: number of tokens the model read, padding not counted.
    """

    total: Tensor
    targets: int
    tokens: int


E = TypeVar("E", bound=Examples)


class Backbone(ABC, Generic[E]):
    """A language-model recommender whose trained parameters are one row per client.

    Attributes:
        layout: order and shapes of the trained parameters.
        lora: the adapters inside the language model, or None where only a head is trained.
        device: where rows must be.
        items: number of items of the catalogue.
        selects_by: what validation compares by default: "ndcg@10", or "loss" where ranking is slow.
    """

    layout: Layout
    lora: Lora | None
    device: torch.device
    items: int
    selects_by: Literal["ndcg@10", "loss"]

    @property
    def adapted(self) -> Adapted | None:
        """The adapters inside the language model, wherever it is, or None where only a head is trained."""
        return self.lora

    def behind(self, trunk: Trunk) -> Self:
        """Return this recommender with its layers between bottom and top in `trunk`.

        Raises:
            TypeError: the backbone is not split.
        """
        raise TypeError(f"{type(self).__name__} is not split.")

    @abstractmethod
    def examples(self, training: Ragged) -> E:
        """Return the training examples in users' training histories, one row of item codes per user."""

    @abstractmethod
    def query_examples(self, queries: Queries) -> E:
        """Return one example per (query, target) pair, to measure the loss on held-out events."""

    @abstractmethod
    def encode_catalogue(self, parameters: Parameters) -> Tensor | None:
        """Return vectors [items, width] that stay constant between refreshes, or None where there are none."""

    def refresh(self, progress: float) -> Refresh:
        """Return how often `encode_catalogue` runs while a client trains; `progress` is the share of rounds done."""
        return "round"

    @abstractmethod
    def loss(self, parameters: Parameters, catalogue: Tensor | None, examples: E, rows: Ints, training: bool) -> Loss:
        """Return the loss of the examples `rows`; `training` switches dropout on (drawn from torch's generator)."""

    def rate_factors(self, examples: E, item_rate: float, own_items: bool) -> Tensor | None:
        """Return [P] what the learning rate is multiplied by; None: one everywhere.

        A backbone that has tables of items (`ParameterSpec.table`) returns `item_rate` in them, but with `own_items` zero
        in shared ones where an item is not in `examples`; one everywhere else.
        """
        return None

    def end_round(
        self, parameters: Parameters, catalogue: Tensor | None, examples: E, batch_tokens: int, lesson: Lesson
    ) -> Mapping[str, Tensor]:
        """Return new values of those parameters that are trained once a round, behind all steps; most have none.

        Arguments are those of `loss`; batches hold `batch_tokens`.
        """
        return {}

    @abstractmethod
    def scorer(self, parameters: Parameters, catalogue: Tensor | None = None) -> CatalogueScorer:
        """Return a scorer with these parameters; `catalogue` is what `encode_catalogue` returned, where it is at hand."""
