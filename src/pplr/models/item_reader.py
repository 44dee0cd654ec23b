"""Who reads the items' texts with the language model and its adapters: this process, or a server of the catalogue.

Where adapters are trained once a round, the backbone needs no more of a language model than these two answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from pplr.models.layout import ParameterSpec
from pplr.models.lora import AdapterSettings


@dataclass(frozen=True)
class Lesson:
    """How adapters are trained along a gradient.

    Attributes:
        rate: learning rate of AdamW.
        warmup: steps until the rate is reached.
        weight_decay: of AdamW.
        clip_norm: largest L2 norm of a step's gradient.
        seed: of the order of items and of dropout.
    """

    rate: float
    warmup: int
    weight_decay: float
    clip_norm: float
    seed: int


class ItemReader(Protocol):
    """A language model with adapters over the catalogue's texts; it remembers nothing between two calls.

    Attributes:
        settings: rank, scale and dropout of the adapters; `settings.targets` is what is really adapted.
        specs: the adapters' parameters, as `Lora.specs`.
    """

    @property
    def settings(self) -> AdapterSettings: ...  # noqa: D102

    @property
    def specs(self) -> tuple[ParameterSpec, ...]: ...  # noqa: D102

    def encode(self, adapters: Mapping[str, Tensor]) -> Tensor:
        """Return the vectors [items, hidden] of all items with these adapters."""

    def learn(
        self, adapters: Mapping[str, Tensor], frozen: frozenset[str], gradient: Tensor, lesson: Lesson
    ) -> Mapping[str, Tensor]:
        """Return the adapters after one pass over all items, trained along a gradient.

        What is minimised is sum_i <g_i, v_i(adapters)>, whose gradient at the adapters given is that of the loss from
        which g_i = dloss / dv_i was taken (docs/catalogue.md).

        Args:
            adapters: where training begins, by name; those named in `frozen` are not trained.
            frozen: see above.
            gradient: [items, hidden] float32, the gradient of a client's loss by the items' vectors.
            lesson: rate, steps and seed.
        """
