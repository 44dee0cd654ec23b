"""What arrives at the server: the states behind the first layers, no more and no less."""

from __future__ import annotations

import pytest
import torch

import cut_models
from pplr.audit.observed import behind, observed
from pplr.audit.texts import HistoryText
from pplr.models.parts import Cut, Which, load_part
from pplr.models.parts.passing import PartModel
from pplr.trunk.codecs import codec

ROWS = [torch.tensor(row) for row in ([5, 6, 7, 8, 9, 10, 11], [12, 13], [20, 21, 22, 23])]


@pytest.mark.parametrize(("name", "head"), [("llama", True), ("bert", False)])
@pytest.mark.parametrize("k", [0, 2, 3])
def test_they_are_the_whole_models_states_behind_k_layers(tmp_path, name, head, k):
    model = cut_models.saved(name, tmp_path)
    part = load_part(tmp_path, cut_models.weights(tmp_path), Which.BOTTOM, Cut(k), head=head)
    for row, states in zip(ROWS, behind(PartModel(part), ROWS), strict=True):
        whole = model(input_ids=row[None], output_hidden_states=True).hidden_states[k][0]
        assert torch.allclose(states, whole, atol=1e-4)


@pytest.mark.parametrize(("name", "head"), [("llama", True), ("bert", False)])
def test_states_behind_more_layers_follow_from_those_behind_fewer(tmp_path, name, head):
    cut_models.saved(name, tmp_path)
    weights = cut_models.weights(tmp_path)
    one, both = (load_part(tmp_path, weights, Which.BOTTOM, Cut(k), head=head) for k in (1, 3))
    between = load_part(tmp_path, weights, Which.TRUNK, Cut(1, cut_models.LAYERS - 3), head=head)
    stepwise = behind(PartModel(between), behind(PartModel(one), ROWS))
    for found, expected in zip(stepwise, behind(PartModel(both), ROWS), strict=True):
        assert torch.allclose(found, expected, atol=1e-4)


def test_only_the_lists_arrive_and_through_the_codec():
    texts = [HistoryText([0] * 7, 2, 6, ()), HistoryText([0] * 5, 2, 4, ())]
    states = [torch.randn(len(text.ids), 8) for text in texts]
    exact = observed(states, texts, codec("float32"))
    assert exact.lengths == (4, 2)
    assert exact.positions.tolist() == [0, 1, 2, 3, 0, 1]
    assert torch.equal(exact.states, torch.cat([states[0][2:6], states[1][2:4]]))
    assert [len(text.states) for text in exact.each()] == [4, 2]
    rounded = observed(states, texts, codec("int8")).states
    assert torch.equal(rounded, codec("int8").decode(codec("int8").encode(exact.states), *exact.states.shape))
    assert (rounded - exact.states).abs().max() > 0
