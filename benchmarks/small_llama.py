"""A small random Llama on disk, which reads bytes: for benchmarks of what is around a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast


def write_small_llama(folder: Path, *, width: int = 128, layers: int = 8) -> None:
    """Write the model and its tokenizer into `folder` as save_pretrained does; the weights are always the same."""
    special = ["<end>", "<pad>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(BPE({token: number for number, token in enumerate([*special, *alphabet])}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(special)
    config = LlamaConfig(
        vocab_size=inner.get_vocab_size(),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        pad_token_id=1,
    )
    with torch.random.fork_rng():
        torch.manual_seed(1)
        LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer: Any = PreTrainedTokenizerFast
    tokenizer(tokenizer_object=inner, eos_token="<end>", pad_token="<pad>").save_pretrained(folder)
