"""A cut model agrees with the whole one, for every family and every cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModel, AutoModelForCausalLM, DynamicCache

from cut_models import DECODERS, ENCODERS, LAYERS, VOCABULARY, parts, saved, weights
from pplr.models.layout import Layout
from pplr.models.lora import AdapterSettings, Lora
from pplr.models.parts import Cut, Part, Which

CUTS = [Cut(k, m) for m in (1, 2) for k in range(LAYERS - m)]
SOME = [Cut(0, 1), Cut(1, 1), Cut(2, 2), Cut(3, 1)]


def _batch(length: int = 23) -> tuple[Tensor, Tensor]:
    """Texts longer than the sliding window, one of them padded on the right."""
    ids = torch.randint(5, VOCABULARY, (3, length), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, length - 6 :] = 0
    return ids * mask + (1 - mask), mask


def _through(chain: list[Part], ids: Tensor, **options: Any) -> Tensor:
    bottom, trunk, top = chain
    states = bottom.base(input_ids=ids, **options).last_hidden_state if len(bottom.layers) else _embedded(bottom, ids)
    states = trunk.base(inputs_embeds=states, **options).last_hidden_state
    return top.base(inputs_embeds=states, **options).last_hidden_state


def _embedded(bottom: Part, ids: Tensor) -> Tensor:
    decoder = hasattr(bottom.base, "embed_tokens")
    states: Tensor = bottom.base.embed_tokens(ids) if decoder else bottom.base.embeddings(input_ids=ids)
    return states


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("cut", CUTS, ids=str)
def test_a_cut_decoder_gives_the_whole_ones_states_and_logits(tmp_path: Path, name: str, cut: Cut) -> None:
    whole, (ids, mask) = saved(name, tmp_path), _batch()
    chain = parts(tmp_path, cut, head=True)
    expected = whole.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    states = _through(chain, ids, attention_mask=mask, use_cache=False)
    torch.testing.assert_close(states[mask.bool()], expected[mask.bool()], atol=1e-5, rtol=1e-5)
    middle = whole.base_model(input_ids=ids, attention_mask=mask, use_cache=False, output_hidden_states=True)
    own = _embedded(chain[0], ids)
    torch.testing.assert_close(own, middle.hidden_states[0], atol=1e-6, rtol=1e-6)
    given = chain[1].base(inputs_embeds=middle.hidden_states[cut.bottom], attention_mask=mask, use_cache=False)
    logits = chain[2].module(inputs_embeds=given.last_hidden_state, attention_mask=mask, use_cache=False).logits
    expected = whole(input_ids=ids, attention_mask=mask, use_cache=False).logits
    torch.testing.assert_close(logits[mask.bool()], expected[mask.bool()], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("cut", CUTS, ids=str)
def test_a_cut_encoder_gives_the_whole_ones_states(tmp_path: Path, name: str, cut: Cut) -> None:
    whole, (ids, mask) = saved(name, tmp_path), _batch(24)  # a multiple of the longformer's windows
    chain = parts(tmp_path, cut, head=False)
    expected = whole(input_ids=ids, attention_mask=mask).last_hidden_state
    states = _through(chain, ids, attention_mask=mask)
    torch.testing.assert_close(states[mask.bool()], expected[mask.bool()], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", DECODERS)
def test_a_cut_decoder_goes_on_from_its_caches_as_the_whole_one(tmp_path: Path, name: str) -> None:
    whole, (ids, _) = saved(name, tmp_path), _batch()
    chain = parts(tmp_path, Cut(1, 2), head=True)
    caches = [DynamicCache(config=part.module.config) for part in chain]
    expected = whole.base_model(input_ids=ids, use_cache=False).last_hidden_state
    done = 0
    for step in (9, 1, 1, 12):
        states = ids[:, done : done + step]
        for part, cache in zip(chain, caches, strict=True):
            given = {"input_ids": states} if part.which is Which.BOTTOM else {"inputs_embeds": states}
            states = part.base(**given, past_key_values=cache, use_cache=True).last_hidden_state
        torch.testing.assert_close(states, expected[:, done : done + step], atol=1e-5, rtol=1e-5)
        done += step
    assert done == ids.shape[1]


@pytest.mark.parametrize("name", [*DECODERS, *ENCODERS])
@pytest.mark.parametrize("cut", SOME, ids=str)
def test_adapters_of_the_parts_are_those_of_the_whole_with_the_same_gradients(
    tmp_path: Path, name: str, cut: Cut
) -> None:
    decoder = name in DECODERS
    saved(name, tmp_path)
    loader: Any = AutoModelForCausalLM if decoder else AutoModel
    whole = loader.from_pretrained(tmp_path).eval().requires_grad_(False)
    chain = parts(tmp_path, cut, head=decoder)
    settings = AdapterSettings(rank=3, dropout=0.0)
    loras = Lora(whole, settings), Lora(chain, settings)
    layouts = [Layout(lora.specs) for lora in loras]
    assert layouts[0].digest == layouts[1].digest
    ids, mask = _batch(24)
    options = {"attention_mask": mask, **({"use_cache": False} if decoder else {})}
    row = layouts[0].initial_row(5)
    row = row + 0.05 * torch.randn(row.shape, generator=torch.Generator().manual_seed(2))
    weight = torch.randn(ids.shape[1], 32, generator=torch.Generator().manual_seed(4)) * mask[..., None]
    gradients = []
    for lora, run in zip(
        loras,
        (lambda: whole.base_model(input_ids=ids, **options).last_hidden_state, lambda: _through(chain, ids, **options)),
        strict=True,
    ):
        leaf = row.clone().requires_grad_()
        with lora.bound(layouts[0].views(leaf)):
            (run() * weight).sum().backward()
        gradients.append(leaf.grad)
    for one, two in zip(layouts[0].views(gradients[0]).values(), layouts[0].views(gradients[1]).values(), strict=True):
        assert one.norm() > 0
        assert (one - two).norm() <= 1e-4 * one.norm()


@pytest.mark.parametrize("cut", [Cut(0, 1), Cut(2, 1)], ids=str)
def test_adapters_of_client_and_server_are_disjoint_pieces_of_the_whole(tmp_path: Path, cut: Cut) -> None:
    whole = saved("llama", tmp_path)
    bottom, trunk, top = parts(tmp_path, cut, head=True)
    settings = AdapterSettings(rank=2)
    all_names = [spec.name for spec in Lora(whole, settings).specs]
    ours = [spec.name for spec in Lora([bottom, top], settings).specs]
    theirs = [spec.name for spec in Lora([trunk], settings).specs]
    assert not set(ours) & set(theirs)
    assert sorted(ours + theirs) == sorted(all_names)
    assert {int(name.split(".")[2]) for name in theirs} == set(cut.layers(Which.TRUNK, LAYERS))


def test_a_head_tied_to_the_embedding_shares_its_memory(tmp_path: Path) -> None:
    from pplr.models.parts import load_part

    saved("llama", tmp_path)
    bottom = load_part(tmp_path, weights(tmp_path), Which.BOTTOM, Cut(1), head=True)
    embedding = bottom.base.embed_tokens.weight
    files = weights(tmp_path)
    top = load_part(tmp_path, files, Which.TOP, Cut(1), head=True, embedding=embedding.data)
    assert top.module.get_submodule("lm_head").weight.data_ptr() == embedding.data_ptr()
    assert files.bytes_read < embedding.nbytes * 4  # one layer and the norm, and no embedding


def test_weights_in_shards_are_found(tmp_path: Path) -> None:
    whole, (ids, _) = saved("qwen3", tmp_path, max_shard_size="20KB"), _batch()
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    states = _through(parts(tmp_path, Cut(2, 1), head=True), ids, use_cache=False)
    expected = whole.base_model(input_ids=ids, use_cache=False).last_hidden_state
    torch.testing.assert_close(states, expected, atol=1e-5, rtol=1e-5)
