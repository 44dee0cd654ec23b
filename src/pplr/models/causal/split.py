"""A causal language model whose bottom and top are here, and whose trunk may be anywhere."""

from __future__ import annotations

import torch
from torch import Tensor

from pplr.models.causal.interface import CausalModel, Reading, Sight
from pplr.models.causal.whole import head_logits
from pplr.models.lora import AdapterSettings, Lora
from pplr.models.parts.passing import PartModel, RemoteTrunk, Trunk, in_pieces, passed


class SplitCausal(CausalModel):
    """Data's way: ids -> bottom -> trunk -> top -> states or logits. Only states pass through the trunk."""

    def __init__(self, bottom: PartModel, trunk: Trunk, top: PartModel, pieces: int = 1) -> None:
        """Join the parts; a batch passes through the trunk in `pieces`, all of them under way at once."""
        self.bottom, self.trunk, self.top = bottom, trunk, top
        self.config = bottom.part.config
        self._pieces = pieces

    def adapters(self, settings: AdapterSettings) -> Lora:
        """Put adapters into the parts that are in this process."""
        models = [model for model in (self.bottom, self.trunk, self.top) if isinstance(model, PartModel)]
        return self.around(Lora([model.part for model in models], settings))

    def behind(self, trunk: Trunk) -> SplitCausal:
        """Return the same bottom and top with another trunk between them."""
        return SplitCausal(self.bottom, trunk, self.top, self._pieces)

    def around(self, lora: Lora) -> Lora:
        """Return `lora`, of bottom and top, together with the adapters of a trunk that is elsewhere."""
        return lora.together_with(self.trunk) if isinstance(self.trunk, RemoteTrunk) else lora

    def states(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return the last layer's normalised states [batch, length, width]."""
        return passed(self.bottom, self.trunk, self.top, ids, mask, self._pieces)

    def continued(self, start: list[int], ids: Tensor, mask: Tensor) -> Tensor:
        """Return the normalised states [batch, length, width] behind a common start."""
        before, states = self.bottom.continued(torch.tensor([start], device=ids.device) if start else None, ids, mask)
        under_way = [
            (self.trunk.sent(before, piece, present, causal=True), present)
            for piece, present in in_pieces(states, mask, self._pieces)
        ]
        return torch.cat([self.top.continued(*wait(), present)[1] for wait, present in under_way])

    def logits(self, states: Tensor) -> Tensor:
        """Return next-token logits [..., vocabulary]."""
        return head_logits(self.top.part.module, states)

    def reading(self, room: int) -> SplitReading:
        """Return a reading that has read nothing."""
        return SplitReading(self, room)


class SplitReading(Reading):
    """One cache per part, each with whoever holds the part."""

    def __init__(self, model: SplitCausal, room: int) -> None:
        self._bottom = model.bottom.reading(room)
        self._trunk = model.trunk.reading(room)
        self._top = model.top.reading(room)

    def read(self, tokens: Tensor, positions: Tensor, sight: Sight, keep: int | Tensor) -> Tensor:
        """Read tokens, and return logits behind some of them."""
        states = self._trunk.read(self._bottom.read(tokens, positions, sight), positions, sight)
        return self._top.logits(states, positions, sight, keep)

    def keep(self, moves: list[tuple[int, int]], rows: int) -> None:
        """Keep some rows."""
        for part in (self._bottom, self._trunk, self._top):
            part.keep(moves, rows)

    def spread(self, rows: int, room: int) -> None:
        """Give the only row to all."""
        for part in (self._bottom, self._trunk, self._top):
            part.spread(rows, room)
