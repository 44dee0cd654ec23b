"""A causal language model in one piece."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from pplr.models.causal.cache import RoomyCache
from pplr.models.causal.interface import CausalModel, Reading, Sight
from pplr.models.causal.layer_masks import LayerMasks
from pplr.models.lora import AdapterSettings, Lora


class WholeCausal(CausalModel):
    """A causal language model of transformers, in one piece."""

    def __init__(self, model: Any) -> None:
        self.module = model
        self.config = model.config

    def adapters(self, settings: AdapterSettings) -> Lora:
        """Put adapters into the model."""
        return Lora(self.module, settings)

    def states(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return the last layer's normalised states [batch, length, width]."""
        states: Tensor = self.module.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        return states

    def continued(self, start: list[int], ids: Tensor, mask: Tensor) -> Tensor:
        """Return the normalised states [batch, length, width] behind a common start."""
        body = self.module.base_model
        cache = None
        if start:
            cache = DynamicCache(config=self.config)
            body(input_ids=torch.tensor([start], device=ids.device), past_key_values=cache, use_cache=True)
            cache.batch_repeat_interleave(len(ids))
        states: Tensor = body(input_ids=ids, past_key_values=cache, use_cache=cache is not None).last_hidden_state
        return states

    def logits(self, states: Tensor) -> Tensor:
        """Return next-token logits [..., vocabulary]."""
        return head_logits(self.module, states)

    def reading(self, room: int) -> WholeReading:
        """Return a reading that has read nothing."""
        return WholeReading(self.module, room)


class WholeReading(Reading):
    """The cache of a whole model."""

    def __init__(self, model: Any, room: int) -> None:
        """Make an empty cache.

        Raises:
            ModelError: the model's kind of attention cannot take a mask of its own.
        """
        self._model = model
        self._masks = LayerMasks(model)
        self._cache = RoomyCache(model.config.get_text_config().num_hidden_layers, room)

    def read(self, tokens: Tensor, positions: Tensor, sight: Sight, keep: int | Tensor) -> Tensor:
        """Read tokens, and return logits behind some of them."""
        logits: Tensor = self._model(
            input_ids=tokens,
            attention_mask=sight.mask(self._masks, positions),
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=keep,
        ).logits
        return logits

    def keep(self, moves: list[tuple[int, int]], rows: int) -> None:
        """Keep some rows."""
        self._cache.keep(moves, rows)

    def spread(self, rows: int, room: int) -> None:
        """Give the only row to all."""
        self._cache.spread(rows, room)


def as_causal(model: Any) -> CausalModel:
    """Return `model`, or transformers' model as a `WholeCausal`."""
    return model if isinstance(model, CausalModel) else WholeCausal(model)


def head_logits(model: Any, states: Tensor) -> Tensor:
    """Return the logits that the head of transformers' `model` gives for normalised states."""
    logits: Tensor = model.get_output_embeddings()(states)
    cap = getattr(model.config, "final_logit_softcapping", None)
    return cap * torch.tanh(logits / cap) if cap else logits
