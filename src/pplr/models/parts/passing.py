"""States on their way through one part of a cut model, and what a trunk must be able to do, wherever it runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor
from transformers import DynamicCache

from pplr.models.causal.cache import RoomyCache
from pplr.models.causal.interface import Sight
from pplr.models.causal.layer_masks import LayerMasks
from pplr.models.parts.cut import Which
from pplr.models.parts.families import family
from pplr.models.parts.load import Part


class TrunkReading(ABC):
    """A trunk that remembers what it has read, row by row."""

    @abstractmethod
    def read(self, states: Tensor, positions: Tensor, sight: Sight) -> Tensor:
        """Return the states [rows, new, width] behind the trunk for those before it; no gradient flows."""

    @abstractmethod
    def keep(self, moves: list[tuple[int, int]], rows: int) -> None:
        """Copy row `source` over row `target` for each (source, target), then drop all rows from `rows` on."""

    @abstractmethod
    def spread(self, rows: int, room: int) -> None:
        """Give what the only row holds to `rows` rows, and leave `room` free tokens behind it."""


class Trunk(ABC):
    """The layers between bottom and top: a part in this process, or the stub of a server that holds it.

    Whoever calls it cannot tell which: gradients flow through what `through` and `continued` return.
    """

    @abstractmethod
    def through(self, states: Tensor, mask: Tensor) -> Tensor:
        """Return states [rows, length, width] behind the trunk; `mask` [rows, length] is 0 at padding."""

    @abstractmethod
    def continued(self, start: Tensor | None, states: Tensor, mask: Tensor) -> tuple[Tensor | None, Tensor]:
        """Return what comes behind the trunk for a common start [1, length, width] and rows that continue it.

        Padding, where `mask` [rows, length] is 0, stands at the end of rows. Decoders only.
        """

    @abstractmethod
    def reading(self, room: int) -> TrunkReading:
        """Return a reading that has read nothing, with room for `room` tokens behind the prompt. Decoders only."""


class PartModel(Trunk):
    """A part in this process. A bottom takes token ids where others take states.

    Attributes:
        part: the part.
    """

    def __init__(self, part: Part) -> None:
        self.part = part
        self._decoder = hasattr(part.base, "layers")
        self._input = "input_ids" if part.which is Which.BOTTOM else "inputs_embeds"

    def through(self, states: Tensor, mask: Tensor) -> Tensor:
        """Return states behind this part."""
        options: dict[str, Any] = {"use_cache": False} if self._decoder else {}
        return self._run(states, attention_mask=mask, **options)

    def continued(self, start: Tensor | None, states: Tensor, mask: Tensor) -> tuple[Tensor | None, Tensor]:
        """Return states behind this part, of a common start and of rows that continue it."""
        if start is None:
            return None, self._run(states, use_cache=False)
        config: Any = self.part.module.config
        cache = DynamicCache(config=config)
        first = self._run(start, past_key_values=cache, use_cache=True)
        cache.batch_repeat_interleave(len(states))
        return first, self._run(states, past_key_values=cache, use_cache=True)

    def reading(self, room: int) -> PartReading:
        """Return a reading that has read nothing."""
        return PartReading(self, room)

    def _run(self, states: Tensor, **options: Any) -> Tensor:
        if not self.part.layers:
            return self.embedded(states)
        result: Tensor = self.part.base(**{self._input: states}, **options).last_hidden_state
        return result

    def embedded(self, ids: Tensor) -> Tensor:
        """Return the embeddings [rows, length, width] of token ids, with which the layers begin."""
        states: Tensor = self.part.base.get_submodule(family(self.part.config.model_type).first)(ids)
        return states


class PartReading(TrunkReading):
    """The cache of one part of a decoder."""

    def __init__(self, owner: PartModel, room: int) -> None:
        """Make an empty cache.

        Raises:
            ModelError: the model's kind of attention cannot take a mask of its own.
        """
        self._owner = owner
        self._part = owner.part
        self._masks = LayerMasks(owner.part.module)
        self._cache = RoomyCache(len(owner.part.layers), room)

    def read(self, states: Tensor, positions: Tensor, sight: Sight) -> Tensor:
        """Return states behind this part; a bottom takes ids."""
        if not self._part.layers:
            return self._owner.embedded(states)
        name = "input_ids" if self._part.which is Which.BOTTOM else "inputs_embeds"
        result: Tensor = self._part.base(**{name: states}, **self._options(positions, sight)).last_hidden_state
        return result

    def logits(self, states: Tensor, positions: Tensor, sight: Sight, keep: int | Tensor) -> Tensor:
        """Return the logits of a top with a head, behind the tokens that `keep` chooses (see `Reading.read`)."""
        options = self._options(positions, sight)
        logits: Tensor = self._part.module(inputs_embeds=states, logits_to_keep=keep, **options).logits
        return logits

    def keep(self, moves: list[tuple[int, int]], rows: int) -> None:
        """Keep some rows."""
        self._cache.keep(moves, rows)

    def spread(self, rows: int, room: int) -> None:
        """Give the only row to all."""
        if self._part.layers:
            self._cache.spread(rows, room)

    def _options(self, positions: Tensor, sight: Sight) -> dict[str, Any]:
        return {
            "attention_mask": sight.mask(self._masks, positions),
            "position_ids": positions,
            "past_key_values": self._cache,
            "use_cache": True,
        }
