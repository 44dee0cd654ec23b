"""How transformers' models are put together, as far as cutting needs to know: one entry per family."""

from __future__ import annotations

from dataclasses import dataclass

from pplr.errors import ModelError


@dataclass(frozen=True)
class Family:
    """Paths of modules in a base model (the model without its head).

    Attributes:
        layers: the list of layers.
        first: what comes before the layers: only the bottom has it.
        last: what comes behind the layers: only the top has it.
        unused: what no part needs.
    """

    layers: str
    first: str
    last: str | None = None
    unused: tuple[str, ...] = ()


_DECODER = Family("layers", "embed_tokens", "norm")
_ENCODER = Family("encoder.layer", "embeddings", unused=("pooler",))

FAMILIES: dict[str, Family] = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text"), _DECODER),
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "camembert", "mpnet", "longformer"), _ENCODER),
    "distilbert": Family("transformer.layer", "embeddings"),
}
"""By transformers' model_type. Everything else in a base model (rotary embeddings, shared position biases) serves the
layers, and each part has its own."""

PER_LAYER = ("layer_types", "no_rope_layers", "attention_window", "mlp_layer_types")
"""Entries of a configuration that hold one value per layer, where they are lists."""


def family(model_type: str) -> Family:
    """Return the family of a model type.

    Raises:
        ModelError: it cannot be cut.
    """
    if model_type not in FAMILIES:
        raise ModelError(
            f"Models of the type {model_type!r} cannot be split between client and server. Use placement.kind = 'whole', "
            f"or a model of one of the types {', '.join(sorted(FAMILIES))}."
        )
    return FAMILIES[model_type]
