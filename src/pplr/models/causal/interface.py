"""What a causal language model is for the generative backbone, wherever its layers are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pplr.models.causal.layer_masks import LayerMasks
from pplr.models.lora import AdapterSettings, Lora


@dataclass(frozen=True)
class Sight:
    """What tokens that are read may see.

    Attributes:
        seen: [rows, all] true where there is text, for tokens in their order: each sees those up to itself.
        full: [rows, 1, new, all] true where a new token may see another, for any other order, instead of `seen`.
        keys: [rows, all] the positions of all tokens, with `full`.
    """

    seen: Tensor | None = None
    full: Tensor | None = None
    keys: Tensor | None = None

    @property
    def length(self) -> int:
        """Number of all tokens, read before and now."""
        given = self.seen if self.full is None else self.full
        return 0 if given is None else given.shape[-1]

    def mask(self, masks: LayerMasks, positions: Tensor) -> Tensor | dict[str, Tensor]:
        """Return the `attention_mask` of transformers for new tokens at `positions` [rows, new]."""
        if self.full is None or self.keys is None:
            if self.seen is None:
                raise ValueError("A sight is either `seen`, or `full` with `keys`.")
            return self.seen.long()
        return masks.of(self.full, positions, self.keys)


class Reading(ABC):
    """A model that remembers what it has read, row by row."""

    @abstractmethod
    def read(self, tokens: Tensor, positions: Tensor, sight: Sight, keep: int | Tensor) -> Tensor:
        """Read `tokens` [rows, new] at `positions` [rows, new]; return logits behind some of them.

        `keep` is a number (of last tokens: [rows, keep, vocabulary]) or a boolean mask [rows, new]
        ([mask.sum(), vocabulary]).
        """

    @abstractmethod
    def keep(self, moves: list[tuple[int, int]], rows: int) -> None:
        """Copy row `source` over row `target` for each (source, target), then drop all rows from `rows` on."""

    @abstractmethod
    def spread(self, rows: int, room: int) -> None:
        """Give what the only row holds to `rows` rows, and leave `room` free tokens behind it."""


class CausalModel(ABC):
    """A frozen causal language model whose adapters are bound from outside.

    Attributes:
        config: transformers' configuration of the whole model.
    """

    config: Any

    @abstractmethod
    def adapters(self, settings: AdapterSettings) -> Lora:
        """Put adapters into the model, as far as it is in this process, and return them.

        Raises:
            ModelError, ConfigError: the settings do not fit the model (see `Lora`).
        """

    @abstractmethod
    def states(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return the last layer's normalised states [batch, length, width] of `ids` where `mask` [batch, length] is 1."""

    @abstractmethod
    def continued(self, start: list[int], ids: Tensor, mask: Tensor) -> Tensor:
        """Return the normalised states [batch, length, width] of `ids`, rows that all continue the tokens `start`.

        Padding, where `mask` [batch, length] is 0, stands at the end, where causal attention never looks. The adapters'
        dropout is drawn once for `start`.
        """

    @abstractmethod
    def logits(self, states: Tensor) -> Tensor:
        """Return next-token logits [..., vocabulary] of states [..., width], soft-capped where the model does so."""

    @abstractmethod
    def reading(self, room: int) -> Reading:
        """Return a reading that has read nothing, with room for `room` tokens behind the prompt."""
