"""A BERT-like encoder whose bottom and top are here, and whose trunk may be anywhere."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

from pplr.models.lora import AdapterSettings, Lora
from pplr.models.parts.passing import PartModel, RemoteTrunk, Trunk, passed


class SplitEncoder(nn.Module):
    """Takes the place of transformers' encoder: token ids in, last hidden states out."""

    def __init__(self, bottom: PartModel, trunk: Trunk, top: PartModel, pieces: int = 1) -> None:
        """Join the parts; a batch passes through the trunk in `pieces`, all of them under way at once."""
        super().__init__()
        self.bottom, self.trunk, self.top = bottom, trunk, top
        self.config = bottom.part.config
        self._pieces = pieces
        self.here = nn.ModuleList([bottom.part.module, top.part.module])
        windows: Any = getattr(self.config, "attention_window", 1)
        self._multiple = max(windows) if isinstance(windows, list) else windows

    def adapters(self, settings: AdapterSettings) -> Lora:
        """Put adapters into the parts that are in this process."""
        models = [model for model in (self.bottom, self.trunk, self.top) if isinstance(model, PartModel)]
        return self.around(Lora([model.part for model in models], settings))

    def behind(self, trunk: Trunk) -> SplitEncoder:
        """Return the same bottom and top with another trunk between them."""
        return SplitEncoder(self.bottom, trunk, self.top, self._pieces)

    def around(self, lora: Lora) -> Lora:
        """Return `lora`, of bottom and top, together with the adapters of a trunk that is elsewhere."""
        return lora.together_with(self.trunk) if isinstance(self.trunk, RemoteTrunk) else lora

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> BaseModelOutput:
        """Return states [rows, length, width] of `input_ids` [rows, length], whose mask is 0 at padding."""
        length = input_ids.shape[1]
        more = -length % self._multiple  # a longformer pads by its embeddings, which the trunk does not have
        ids = F.pad(input_ids, (0, more), value=self.config.pad_token_id or 0)
        mask = F.pad(attention_mask, (0, more))
        states = passed(self.bottom, self.trunk, self.top, ids, mask, self._pieces)
        return BaseModelOutput(last_hidden_state=states[:, :length])
