"""Results equal those of transformers' `generate`, and of a search through everything by plain passes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import EOS, generated, greedy, log_probability, prompts, unpadded

import tiny
from pplr.errors import DataError, ModelError, NumericalError
from pplr.models.decoding import TitleTrie, beam_search
from pplr.models.layout import Layout
from pplr.models.lora import AdapterSettings, Lora

KINDS = ["llama", "qwen2", "gemma2", "gemma3"]
MODELS = {kind: tiny.decoder(kind, **({"sliding_window": 8} if kind.startswith("gemma") else {})) for kind in KINDS}
TITLES = [[int(token) + 4 for token in title.encode()] for title in tiny.catalogue(40, seed=3).titles]
"""With duplicates, titles that begin other titles, and long stretches without a branch."""


def search(model, ids, mask, *, titles=TITLES, **changes):
    trie = TitleTrie(titles, EOS) if titles is not None else None
    longest = max(map(len, titles)) + 1 if titles is not None else 6
    options = {"beams": 3, "max_new_tokens": longest, "eos": EOS, "trie": trie} | changes
    return beam_search(model, ids, mask, **options)


def assert_equal(ours, tokens, scores):
    width = ours.tokens.shape[2]
    assert torch.isfinite(ours.scores).all()
    torch.testing.assert_close(ours.tokens, tokens[:, :, :width])
    assert (tokens[:, :, width:] == EOS).all()
    torch.testing.assert_close(ours.scores, scores, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("same_weights", [True, False])
@pytest.mark.parametrize("shape", ["ragged", "equal", "common", "one"])
@pytest.mark.parametrize("titles", [TITLES, None], ids=["titles", "free"])
@pytest.mark.parametrize("kind", KINDS)
def test_results_equal_those_of_transformers(kind, titles, shape, same_weights):
    ids, mask = prompts(shape)
    ours = search(MODELS[kind], ids, mask, titles=titles, same_weights=same_weights)
    longest = max(map(len, titles)) + 1 if titles else 6
    assert_equal(ours, *generated(MODELS[kind], ids, mask, 3, longest, titles, 1.0))


@pytest.mark.parametrize("penalty", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("beams", [2, 4, 6])
def test_widths_and_length_penalties_equal_transformers(beams, penalty):
    ids, mask = prompts("ragged", seed=beams)
    ours = search(MODELS["llama"], ids, mask, beams=beams, length_penalty=penalty, same_weights=True)
    longest = max(map(len, TITLES)) + 1
    assert_equal(ours, *generated(MODELS["llama"], ids, mask, beams, longest, TITLES, penalty))


@pytest.mark.parametrize("titles", [TITLES, None], ids=["titles", "free"])
def test_one_beam_is_greedy(titles):
    ids, mask = prompts("ragged")
    ours = search(MODELS["llama"], ids, mask, titles=titles, beams=1)
    longest = max(map(len, titles)) + 1 if titles else 6
    tokens = greedy(MODELS["llama"], ids, mask, longest, titles)
    width = ours.tokens.shape[2]
    assert torch.equal(ours.tokens[:, 0], tokens[:, :width])
    assert (tokens[:, width:] == EOS).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_beam_per_title_finds_every_title_with_its_own_probability(kind):
    titles = TITLES[:7]
    ids, mask = prompts("ragged")
    found = search(MODELS[kind], ids, mask, titles=titles, beams=9, length_penalty=0.0)
    distinct = {tuple(title) for title in titles}
    trie = TitleTrie(titles, EOS)
    for user, prompt in enumerate(unpadded(ids, mask)):
        expected = {title: log_probability(MODELS[kind], prompt, [*title, EOS]) for title in distinct}
        best = sorted(expected, key=lambda title: -expected[title])
        kept = int((found.lengths[user] > 0).sum())
        assert kept == len(distinct), "there is nothing else to find"
        assert (found.scores[user, kept:] == -torch.inf).all()
        assert (found.leaves[user, kept:] == -1).all()
        for beam, title in enumerate(best):
            assert found.tokens[user, beam, : found.lengths[user, beam]].tolist() == [*title, EOS]
            assert float(found.log_probs[user, beam]) == pytest.approx(expected[title], rel=1e-4, abs=1e-4)
            assert [titles[i] for i in trie.items(int(found.leaves[user, beam]))] == [list(title)] * titles.count(
                list(title)
            )


@settings(max_examples=25)
@given(st.data())
def test_any_catalogue_is_searched_as_transformers_does(data):
    """Few tokens, so that titles share beginnings and contain one another."""
    titles = data.draw(
        st.lists(st.lists(st.integers(4, 7), min_size=1, max_size=9), min_size=8, max_size=25, unique_by=tuple)
    )
    beams = data.draw(st.integers(2, 3))
    ids, mask = prompts(data.draw(st.sampled_from(["ragged", "common"])), seed=data.draw(st.integers(0, 99)))
    ours = search(MODELS["llama"], ids, mask, titles=titles, beams=beams, same_weights=data.draw(st.booleans()))
    tokens, scores = generated(MODELS["llama"], ids, mask, beams, max(map(len, titles)) + 1, titles, 1.0)
    exist = torch.isfinite(ours.scores)  # what transformers fills up with has a score near -1e9
    torch.testing.assert_close(ours.scores[exist], scores[exist], rtol=1e-4, atol=1e-4)
    assert (scores[~exist] < -1e6).all()
    width = ours.tokens.shape[2]
    assert torch.equal(ours.tokens[exist], tokens[:, :, :width][exist])


def test_a_user_does_not_depend_on_the_others():
    ids, mask = prompts("common")
    for same_weights in (True, False):
        together = search(MODELS["gemma3"], ids, mask, same_weights=same_weights)
        for user, prompt in enumerate(unpadded(ids, mask)):
            alone = search(MODELS["gemma3"], torch.tensor([prompt]), torch.ones(1, len(prompt), dtype=torch.long))
            assert torch.equal(alone.leaves[0], together.leaves[user])
            torch.testing.assert_close(alone.scores[0], together.scores[user], rtol=1e-4, atol=1e-4)


def test_each_user_may_have_adapters_of_its_own():
    model = tiny.decoder("llama")
    lora = Lora(model, AdapterSettings(rank=2, scale=4.0, dropout=0.0))
    layout = Layout(lora.specs)
    rows = torch.randn(2, layout.size, generator=torch.Generator().manual_seed(3)) * 0.3
    ids, mask = prompts("ragged")
    owner = torch.tensor([1, 0, 0, 1])
    with torch.no_grad(), lora.bound(layout.views(rows), owner):
        mixed = search(model, ids, mask)
    different = False
    for client in (0, 1):
        with torch.no_grad(), lora.bound(layout.views(rows[client])):
            alone = search(model, ids, mask, same_weights=True)
        torch.testing.assert_close(mixed.scores[owner == client], alone.scores[owner == client], rtol=1e-4, atol=1e-4)
        assert torch.equal(mixed.leaves[owner == client], alone.leaves[owner == client])
        different |= not torch.equal(mixed.leaves[owner != client], alone.leaves[owner != client])
    assert different, "the adapters make no difference, so nothing was tested"


def test_stretches_without_a_branch_are_read_in_one_call():
    """Two titles of 20 tokens that differ in the first: a call for the prompt, and one for both titles."""
    titles = [[5, *range(10, 29)], [6, *range(40, 59)]]
    ids, mask = prompts("one")
    calls = []
    model = tiny.decoder("llama")
    model.get_input_embeddings().register_forward_pre_hook(lambda module, given: calls.append(given[0].shape[1]))
    found = search(model, ids, mask, titles=titles, beams=2)
    assert (found.lengths == 21).all()
    assert len(calls) <= 3
    assert sum(calls) <= 20 + 40


def test_nothing_that_is_not_a_title_is_found():
    ids, mask = prompts("ragged", seed=8)
    found = search(MODELS["qwen2"], ids, mask, beams=5)
    for user in range(len(ids)):
        for beam in range(5):
            tokens = found.tokens[user, beam, : found.lengths[user, beam]].tolist()
            assert tokens[-1] == EOS
            assert tokens[:-1] in TITLES
    assert all(len(set(row)) == 5 for row in found.leaves.tolist()), "no title twice"


@pytest.mark.parametrize(
    ("ids", "mask"),
    [
        ([[5, 6], [7, 2]], [[1, 1], [1, 0]]),
        ([[5, 6], [2, 2]], [[1, 1], [0, 0]]),
        ([[5, 2, 6]], [[1, 0, 1]]),
        ([[5, 6]], [[1]]),
    ],
    ids=["padded on the right", "empty", "a hole", "another shape"],
)
def test_wrong_prompts_are_refused(ids, mask):
    with pytest.raises(DataError, match="Pad prompts on the left"):
        search(MODELS["llama"], torch.tensor(ids), torch.tensor(mask))


@pytest.mark.parametrize("titles", [TITLES, None], ids=["titles", "free"])
def test_weights_that_are_not_numbers_are_an_error(titles):
    model = tiny.decoder("llama")
    model.lm_head.weight.data[7] = torch.nan
    with pytest.raises(NumericalError, match="lower the learning rate"):
        search(model, *prompts("one"), titles=titles)


def test_attention_without_masks_is_refused():
    model = tiny.decoder("llama")
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ModelError, match="attn_implementation"):
        search(model, *prompts("one"))


def test_memory_of_the_tree_grows_with_what_is_read():
    """Long free texts: the tree's arrays grow several times, and every token stays where it was."""
    ids, mask = prompts("ragged")
    ours = search(MODELS["llama"], ids, mask, titles=None, beams=4, max_new_tokens=40, same_weights=True)
    assert_equal(ours, *generated(MODELS["llama"], ids, mask, 4, 40, None, 1.0))
    assert int(ours.lengths.max()) > 30
    assert np.isfinite(ours.log_probs.numpy()).all()
