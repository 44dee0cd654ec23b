"""The backbones over a cut model: losses, gradients, beams and vectors are those over the whole one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM

from cut_models import DECODERS, ENCODERS, LAYERS, VOCABULARY, parts, saved
from pplr.models.causal import WholeCausal
from pplr.models.causal.split import SplitCausal
from pplr.models.decoding.beam import beam_search
from pplr.models.decoding.trie import TitleTrie
from pplr.models.layout import Layout
from pplr.models.lora import AdapterSettings
from pplr.models.parts import Cut
from pplr.models.parts.encoder import SplitEncoder
from pplr.models.parts.passing import PartModel

CUTS = [Cut(0, 1), Cut(1, 2), Cut(3, 1)]


def _both(name: str, folder: Path, cut: Cut) -> tuple[WholeCausal, SplitCausal]:
    saved(name, folder)
    whole: Any = AutoModelForCausalLM.from_pretrained(folder).eval().requires_grad_(False)
    return WholeCausal(whole), SplitCausal(*(PartModel(part) for part in parts(folder, cut, head=True)))


def _ids(rows: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(5, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("cut", CUTS, ids=str)
def test_states_behind_a_common_start_and_their_gradients_are_the_same(tmp_path: Path, name: str, cut: Cut) -> None:
    models = _both(name, tmp_path, cut)
    loras = [model.adapters(AdapterSettings(rank=2, dropout=0.0)) for model in models]
    layout = Layout(loras[0].specs)
    assert layout.digest == Layout(loras[1].specs).digest
    row = layout.initial_row(1) + 0.05 * torch.randn(layout.size, generator=torch.Generator().manual_seed(1))
    for start in ([], [7, 8, 9, 10, 11, 12, 13, 14]):
        results, gradients = [], []
        for model, lora in zip(models, loras, strict=True):
            leaf = row.clone().requires_grad_()
            with lora.bound(layout.views(leaf)):
                states = model.continued(start, _ids(3, 11), torch.ones(3, 11))
                logits = model.logits(states)
                logits.pow(2).mean().backward()
            results.append((states.detach(), logits.detach()))
            gradients.append(leaf.grad)
        for one, two in zip(*results, strict=True):
            torch.testing.assert_close(two, one, atol=1e-4, rtol=1e-5)
        assert (gradients[0] - gradients[1]).norm() <= 1e-4 * gradients[0].norm()
        assert gradients[0].norm() > 0


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("cut", CUTS, ids=str)
@pytest.mark.parametrize("together", [False, True])
def test_beams_are_the_same(tmp_path: Path, name: str, cut: Cut, together: bool) -> None:
    whole, split = _both(name, tmp_path, cut)
    ids, mask = _ids(4, 40), torch.ones(4, 40, dtype=torch.long)
    ids[:, :30] = ids[0, :30]
    mask[1, :6] = 0
    titles = TitleTrie([row[: 2 + i % 5].tolist() for i, row in enumerate(_ids(40, 7, seed=4))], 2)
    found = [
        beam_search(model, ids, mask, beams=3, max_new_tokens=8, eos=2, trie=titles, same_weights=together)
        for model in (whole, split)
    ]
    assert torch.equal(found[0].tokens, found[1].tokens)
    torch.testing.assert_close(found[0].scores, found[1].scores, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", DECODERS)
def test_states_of_titles_are_the_same(tmp_path: Path, name: str) -> None:
    whole, split = _both(name, tmp_path, Cut(2, 1))
    ids, mask = _ids(3, 9), torch.ones(3, 9, dtype=torch.long)
    mask[0, 5:] = 0
    one, two = (model.states(ids, mask) for model in (whole, split))
    torch.testing.assert_close(two[mask.bool()], one[mask.bool()], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("cut", [*CUTS, Cut(LAYERS - 2, 1)], ids=str)
def test_an_encoder_reads_the_same(tmp_path: Path, name: str, cut: Cut) -> None:
    saved(name, tmp_path)
    whole: Any = AutoModel.from_pretrained(tmp_path).eval().requires_grad_(False)
    split = SplitEncoder(*(PartModel(part) for part in parts(tmp_path, cut, head=False)))
    ids, mask = _ids(3, 13), torch.ones(3, 13, dtype=torch.long)
    mask[2, 9:] = 0
    one, two = (model(input_ids=ids, attention_mask=mask).last_hidden_state for model in (whole, split))
    assert one.shape == two.shape
    torch.testing.assert_close(two[mask.bool()], one[mask.bool()], atol=1e-5, rtol=1e-5)
