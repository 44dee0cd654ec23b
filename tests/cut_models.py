"""Small random models of every family that can be cut, on disk as save_pretrained writes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as t

from pplr.models.parts import Cut, Part, Which, load_part
from pplr.models.parts.tensors import TensorFiles

VOCABULARY, WIDTH, LAYERS, WINDOW = 97, 32, 5, 6

_DECODER = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
}
_ENCODER = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "pad_token_id": 1,
}

_SLIDING = {"sliding_window": WINDOW, "head_dim": 8}
_MIXED = {
    "layer_types": ["full_attention", "sliding_attention", "sliding_attention", "full_attention", "sliding_attention"]
}

DECODERS: dict[str, Callable[[], Any]] = {
    "llama": lambda: t.LlamaForCausalLM(t.LlamaConfig(**_DECODER, tie_word_embeddings=True)),
    "llama-untied": lambda: t.LlamaForCausalLM(t.LlamaConfig(**_DECODER, tie_word_embeddings=False)),
    "mistral": lambda: t.MistralForCausalLM(t.MistralConfig(**_DECODER, sliding_window=WINDOW)),
    "qwen2": lambda: t.Qwen2ForCausalLM(
        t.Qwen2Config(**_DECODER, use_sliding_window=True, sliding_window=WINDOW, **_MIXED, tie_word_embeddings=True)
    ),
    "qwen3": lambda: t.Qwen3ForCausalLM(t.Qwen3Config(**_DECODER, head_dim=8)),
    "gemma": lambda: t.GemmaForCausalLM(t.GemmaConfig(**_DECODER, head_dim=8)),
    "gemma2": lambda: t.Gemma2ForCausalLM(
        t.Gemma2Config(**_DECODER, **_SLIDING, **_MIXED, query_pre_attn_scalar=8, final_logit_softcapping=5.0)
    ),
    "gemma3": lambda: t.Gemma3ForCausalLM(
        t.Gemma3TextConfig(**_DECODER, **_SLIDING, **_MIXED, query_pre_attn_scalar=8)
    ),
}
ENCODERS: dict[str, Callable[[], Any]] = {
    "bert": lambda: t.BertModel(t.BertConfig(**_ENCODER)),
    "roberta": lambda: t.RobertaModel(t.RobertaConfig(**_ENCODER)),
    "xlm-roberta": lambda: t.XLMRobertaModel(t.XLMRobertaConfig(**_ENCODER)),
    "camembert": lambda: t.CamembertModel(t.CamembertConfig(**_ENCODER)),
    "mpnet": lambda: t.MPNetModel(t.MPNetConfig(**_ENCODER)),
    "distilbert": lambda: t.DistilBertModel(
        t.DistilBertConfig(
            vocab_size=VOCABULARY, dim=WIDTH, hidden_dim=48, n_layers=LAYERS, n_heads=4, max_position_embeddings=128
        )
    ),
    "longformer": lambda: t.LongformerModel(t.LongformerConfig(**_ENCODER, attention_window=[4, 8, 4, 8, 8])),
}


def saved(name: str, folder: Path, **options: Any) -> Any:
    """Write the model `name` into `folder`, and return it, frozen: its weights are larger than usual, so that errors
    show."""
    torch.manual_seed(3)
    model = {**DECODERS, **ENCODERS}[name]().eval().requires_grad_(False)
    for path, weights in model.named_parameters():
        if weights.dim() > 1 and "embed" not in path:
            weights.mul_(4)
    model.save_pretrained(folder, **options)
    return model


def weights(folder: Path) -> TensorFiles:
    """Return the tensors in a model folder."""
    return TensorFiles(sorted(folder.glob("*.safetensors")))


def parts(folder: Path, cut: Cut, *, head: bool) -> list[Part]:
    """Return bottom, trunk and top of a model folder, each loaded by itself."""
    return [load_part(folder, weights(folder), which, cut, head=head) for which in Which]
