"""A large decoder on disk that takes no room: safetensors whose headers are whole and whose weights are a hole.

Reading a hole gives zeros, which take as much memory as any other numbers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.initialization import no_init_weights

SHARD_BYTES = 5 * 10**9


def llama_7b() -> LlamaConfig:
    """Return the configuration of a Llama of 6.7 billion weights."""
    return LlamaConfig(
        vocab_size=32000,
        hidden_size=4096,
        intermediate_size=11008,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=32,
        max_position_embeddings=4096,
        tie_word_embeddings=False,
        architectures=["LlamaForCausalLM"],
    )


def write_sparse(config: LlamaConfig, folder: Path) -> int:
    """Write a bfloat16 model of `config` into `folder` in shards, and return the bytes of its weights."""
    with no_init_weights(), torch.device("meta"):
        model = LlamaForCausalLM(config)
    config.save_pretrained(folder)
    (folder / "tokenizer.json").write_text("{}", encoding="utf-8")
    shards: list[dict[str, list[int]]] = [{}]
    filled = 0
    for name, parameter in model.named_parameters():
        size = 2 * parameter.numel()
        if filled and filled + size > SHARD_BYTES:
            shards.append({})
            filled = 0
        shards[-1][name] = list(parameter.shape)
        filled += size
    places: dict[str, str] = {}
    total = 0
    for number, shard in enumerate(shards, start=1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        total += _write_shard(folder / file, shard)
        places |= dict.fromkeys(shard, file)
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return total


def _write_shard(path: Path, shapes: dict[str, list[int]]) -> int:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * int(torch.Size(shape).numel())
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    written = json.dumps(header).encode()
    written += b" " * (-len(written) % 8)
    with path.open("wb") as file:
        file.write(len(written).to_bytes(8, "little") + written)
        file.truncate(8 + len(written) + end)
    return end
