"""Floating-point operations of training adapters in a frozen decoder, by the usual count.

    4 N T        per example of T tokens: 2 N forward and 2 N backward, for gradients of activations only, with N the
                 weights of all linear maps of the blocks
    6 l h T^2    attention, causal: 2 l h T^2 forward and twice that backward; l layers, h = heads x width of a head
    4 V d        per position at which logits are computed: the head forward and backward; V words, width d

Norms, rotations, the adapters themselves (under 1%) and the optimiser are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from pplr.data.dataset import Ints


@dataclass(frozen=True)
class DecoderShape:
    """What the count needs to know of a decoder.

    Attributes:
        linear: N, weights of all linear maps of the blocks.
        attention: l h.
        head: V d.
    """

    linear: int
    attention: int
    head: int

    @staticmethod
    def of(model: Any) -> DecoderShape:
        """Return the shape of a causal language model of transformers."""
        config, layers = model.config, model.base_model.layers
        linear = sum(m.weight.numel() for m in layers.modules() if isinstance(m, nn.Linear) and m.weight.shape[0] > 0)
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        attention = len(layers) * config.num_attention_heads * width
        return DecoderShape(linear, attention, config.vocab_size * config.hidden_size)

    def training(self, lengths: Ints, logits: int) -> float:
        """Return the operations of one training step over examples of `lengths` tokens, with `logits` positions."""
        squares = float((lengths.astype(np.float64) ** 2).sum())
        return 4.0 * self.linear * float(lengths.sum()) + 6.0 * self.attention * squares + 4.0 * self.head * logits
