"""The small causal transformer of the sequence backbone, as pure functions of named parameters.

Pure functions, because the parameters are rows of a bank: one row runs as it is, many rows run under `torch.func.vmap`.
After SASRec (arXiv:1808.09781), with pre-normalisation.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from pplr.models.layout import ParameterSpec, kaiming, normal, ones, zeros


def network_specs(width: int, layers: int, positions: int) -> list[ParameterSpec]:
    """Return the parameters of a transformer over `positions` items: a 4x wide feed-forward part, no key bias."""
    specs = [ParameterSpec("position", (positions, width), normal(0.02), decay=False)]
    for layer in range(layers):
        name = f"block.{layer}"
        specs += [
            ParameterSpec(f"{name}.norm_attention", (width,), ones, decay=False),
            ParameterSpec(f"{name}.qkv", (3 * width, width), kaiming),
            ParameterSpec(f"{name}.out", (width, width), kaiming),
            ParameterSpec(f"{name}.norm_feed", (width,), ones, decay=False),
            ParameterSpec(f"{name}.up", (4 * width, width), kaiming),
            ParameterSpec(f"{name}.up_bias", (4 * width,), zeros, decay=False),
            ParameterSpec(f"{name}.down", (width, 4 * width), kaiming),
        ]
    return [*specs, ParameterSpec("norm_final", (width,), ones, decay=False)]


def hidden_states(p: Mapping[str, Tensor], items: Tensor, *, layers: int, heads: int, dropout: float = 0.0) -> Tensor:
    """Return the state after each item, [batch, length, width].

    `items` [batch, length, width] are item embeddings, oldest first, padded at the end: a state sees only what is
    before it, so padding needs no mask. The newest `positions` items are the caller's business.
    """
    length = items.shape[1]
    x = F.dropout(items + p["position"][:length], dropout, training=dropout > 0)
    for layer in range(layers):
        name = f"block.{layer}"
        x = x + F.dropout(_attention(p, name, x, heads), dropout, training=dropout > 0)
        z = F.rms_norm(x, x.shape[-1:], p[f"{name}.norm_feed"])
        z = F.gelu(F.linear(z, p[f"{name}.up"], p[f"{name}.up_bias"]))
        x = x + F.dropout(F.linear(z, p[f"{name}.down"]), dropout, training=dropout > 0)
    return F.rms_norm(x, x.shape[-1:], p["norm_final"])


def _attention(p: Mapping[str, Tensor], name: str, x: Tensor, heads: int) -> Tensor:
    batch, length, width = x.shape
    z = F.rms_norm(x, x.shape[-1:], p[f"{name}.norm_attention"])
    qkv = F.linear(z, p[f"{name}.qkv"]).view(batch, length, 3, heads, width // heads)
    query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    mixed: Tensor = F.scaled_dot_product_attention(query, key, value, is_causal=True)
    return F.linear(mixed.transpose(1, 2).reshape(batch, length, width), p[f"{name}.out"])


def last_states(states: Tensor, lengths: Tensor) -> Tensor:
    """Return the state [batch, width] after the last real item of each row."""
    return states[torch.arange(len(states), device=states.device), lengths - 1]
