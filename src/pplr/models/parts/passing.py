"""States on their way through one part of a cut model, and what a trunk must be able to do, wherever it runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
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


Sent = Callable[[], tuple[Tensor | None, Tensor]]
"""Waits for what was sent: the states behind the trunk of a common start, or None, and of the rows."""


class Trunk(ABC):
    """The layers between bottom and top: a part in this process, or the stub of a server that holds it.

    Whoever calls it cannot tell which: gradients flow through what comes back.
    """

    @abstractmethod
    def sent(self, start: Tensor | None, states: Tensor, mask: Tensor, *, causal: bool) -> Sent:
        """Have states pass through the trunk, and return a function that waits for what comes behind it.

        Args:
            start: [1, length, width] states of tokens that all rows continue, or None. Causal only.
            states: [rows, length, width].
            mask: [rows, length] 0 at padding; where causal, padding stands at the end of rows.
            causal: rows continue `start`, and see nothing behind themselves. Decoders only.
        """

    @abstractmethod
    def reading(self, room: int) -> TrunkReading:
        """Return a reading that has read nothing, with room for `room` tokens behind the prompt. Decoders only."""

    def through(self, states: Tensor, mask: Tensor) -> Tensor:
        """Return states [rows, length, width] behind the trunk; `mask` [rows, length] is 0 at padding."""
        return self.sent(None, states, mask, causal=False)()[1]

    def continued(self, start: Tensor | None, states: Tensor, mask: Tensor) -> tuple[Tensor | None, Tensor]:
        """Return what comes behind the trunk for a common start and rows that continue it (see `sent`)."""
        return self.sent(start, states, mask, causal=True)()


class RemoteTrunk(Trunk):
    """A trunk that another party holds, with the adapters in it."""

    @abstractmethod
    def bound(self) -> AbstractContextManager[None]:
        """Have the adapters used inside the block."""

    @abstractmethod
    def training(self, seed: int) -> AbstractContextManager[None]:
        """Have the adapters' dropout applied inside the block."""


class PartModel(Trunk):
    """A part in this process. A bottom takes token ids where others take states.

    Attributes:
        part: the part.
    """

    def __init__(self, part: Part) -> None:
        self.part = part
        self._decoder = hasattr(part.base, "layers")
        self._input = "input_ids" if part.which is Which.BOTTOM else "inputs_embeds"

    def sent(self, start: Tensor | None, states: Tensor, mask: Tensor, *, causal: bool) -> Sent:
        """Have states pass through this part at once."""
        result = self.continued(start, states, mask) if causal else (None, self.through(states, mask))
        return lambda: result

    def through(self, states: Tensor, mask: Tensor) -> Tensor:
        """Return states behind this part."""
        options: dict[str, Any] = {"use_cache": False} if self._decoder else {}
        return self._run(states, attention_mask=mask, **options)

    def continued(self, start: Tensor | None, states: Tensor, mask: Tensor) -> tuple[Tensor | None, Tensor]:
        """Return states behind this part, of a common start and of rows that continue it."""
        if start is None:
            return None, self.behind(states, None)
        first, cache = self.started(start)
        return first, self.behind(states, cache, len(states))

    def started(self, starts: Tensor) -> tuple[Tensor, DynamicCache]:
        """Return the states behind this part of starts [starts, length, width], and what it remembers of them."""
        config: Any = self.part.module.config
        cache = DynamicCache(config=config)
        return self._run(starts, past_key_values=cache, use_cache=True), cache

    def behind(self, rows: Tensor, cache: DynamicCache | None, repeats: int | Tensor = 1) -> Tensor:
        """Return the states behind this part of rows that continue starts: `repeats` rows each, in their order."""
        if cache is None:
            return self._run(rows, use_cache=False)
        counts: Any = repeats  # torch repeats by a tensor too, of which the annotation does not know
        cache.batch_repeat_interleave(counts)
        return self._run(rows, past_key_values=cache, use_cache=True)

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


def passed(bottom: PartModel, trunk: Trunk, top: PartModel, ids: Tensor, mask: Tensor, pieces: int) -> Tensor:
    """Return the states [rows, length, width] of token ids behind all three parts, in some pieces under way at once."""
    under_way = [
        (trunk.sent(None, states, present, causal=False), present)
        for states, present in in_pieces(bottom.through(ids, mask), mask, pieces)
    ]
    return torch.cat([top.through(wait()[1], present) for wait, present in under_way])


def in_pieces(states: Tensor, mask: Tensor, pieces: int) -> list[tuple[Tensor, Tensor]]:
    """Return the rows of states [rows, length, width] and mask [rows, length] as `pieces` of about the same size."""
    if pieces == 1 or len(states) < pieces:
        return [(states, mask)]
    return list(zip(states.chunk(pieces), mask.chunk(pieces), strict=True))


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
