"""From written titles to items: what is scored, what ties, and what is never recommended."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import tiny
from pplr.data.dataset import Part, Queries, Ragged
from pplr.evaluation import top_items
from pplr.models.generative import GenerativeBackbone, GenerativeSettings
from pplr.models.grounding import write, written_texts
from pplr.models.lora import AdapterSettings

ADAPTER = AdapterSettings(rank=2, scale=4.0, dropout=0.0)
BEAMS = 3


def backbone(grounding, **settings):
    chosen = {"adapter": ADAPTER, "prompt_tokens": 300, "beams": BEAMS, "grounding": grounding} | settings
    data = tiny.dataset()
    return GenerativeBackbone(
        GenerativeSettings(**chosen), data.catalogue, tiny.decoder("llama"), tiny.byte_tokenizer(), tiny.CPU
    )


def parameters(of, scale=0.3):
    return of.layout.views(torch.randn(of.layout.size, generator=torch.Generator().manual_seed(0)) * scale)


def queries(count=5):
    return tiny.dataset().queries(Part.TEST).select(np.arange(count))


def test_beams_score_by_their_order_and_all_else_ties_below():
    tested = backbone("catalogue")
    titles = tested.catalogue.titles
    scores = tested.scorer(parameters(tested)).scores(queries())
    found = written_texts(tested, write(tested, parameters(tested), list(queries().histories), free=False))
    for row, entry in zip(scores, found, strict=True):
        assert list(entry.log_probabilities) != sorted(entry.log_probabilities), "or the order would say nothing"
        for item, title in enumerate(titles):
            expected = BEAMS - entry.texts.index(title) if title in entry.texts else 0
            assert row[item] == expected


def test_items_that_share_a_title_share_its_score():
    tested = backbone("catalogue")
    assert tested.catalogue.titles[3] == tested.catalogue.titles[4]
    scores = tested.scorer(parameters(tested)).scores(queries(), wanted=29)
    assert torch.equal(scores[:, 3], scores[:, 4])
    assert (scores[:, 3] > 0).all()


@pytest.mark.parametrize("wanted", [1, 5, 12])
def test_lists_are_filled_with_what_was_written_and_nothing_else(wanted):
    """With histories of up to 12 of the 30 items, so that many beams are lost to them."""
    tested = backbone("catalogue")
    scorer = tested.scorer(parameters(tested))
    asked = queries(12)
    scores = scorer.scores(asked, wanted=wanted)
    best = top_items(scores, asked.histories, wanted, scorer.nothing)
    for row, items, history in zip(scores, best.tolist(), asked.histories, strict=True):
        assert len(set(items)) == wanted
        assert -1 not in items
        assert not set(items) & set(history.tolist())
        assert all(row[item] > 0 for item in items)


def test_what_no_beam_wrote_is_not_recommended():
    tested = backbone("catalogue")
    scorer = tested.scorer(parameters(tested))
    best = top_items(scorer.scores(queries()), None, 10, scorer.nothing)
    assert ((best >= 0).sum(dim=1) <= BEAMS + 1).all(), "a title of the catalogue belongs to two items"
    assert (best[:, -1] == -1).all()


def test_more_than_there_is_is_not_searched_for_ever():
    tested = backbone("catalogue")
    everything = Queries(np.zeros(1, np.int64), Ragged.from_rows([range(30)]), Ragged.from_rows([[]]))
    scores = tested.scorer(parameters(tested)).scores(everything, wanted=10)
    assert (scores > 0).all(), "the search was widened to all titles"
    nobody = everything.select(np.zeros(0, np.int64))
    assert tested.scorer(parameters(tested)).scores(nobody, wanted=10).shape == (0, 30)


def test_embedding_grounding_ranks_by_distance_in_the_base_model():
    """Against the distances of plain passes of a model that never had an adapter."""
    tested = backbone("embedding")
    scorer = tested.scorer(parameters(tested))
    assert scorer.nothing == -torch.inf
    fresh = tiny.decoder("llama")

    def state(tokens):
        return fresh.base_model(input_ids=torch.tensor([tokens])).last_hidden_state[0, -1]

    beams = write(tested, parameters(tested), list(queries().histories), free=True)
    scores = scorer.scores(queries())
    for user in range(5):
        text = [t for t in beams.tokens[user, 0, : beams.lengths[user, 0]].tolist() if t != tested.eos] or [tested.eos]
        for item in (0, 7, 29):
            distance = (state(text) - state(tested.titles[item][:-1])).norm()
            assert float(scores[user, item]) == pytest.approx(-float(distance), rel=1e-3, abs=1e-3)


def test_writing_uses_the_adapters_of_the_client_who_asks():
    tested = backbone("catalogue")
    histories = list(queries(8).histories)
    strong = write(tested, parameters(tested, 1.0), histories, free=False)
    none = write(tested, tested.layout.views(tested.layout.initial_row(0)), histories, free=False)
    assert not torch.equal(strong.leaves, none.leaves)
    fresh = backbone("catalogue")
    plain = write(fresh, fresh.layout.views(fresh.layout.initial_row(5)), histories, free=False)
    assert torch.equal(none.leaves, plain.leaves), "a row that changes nothing writes what the base model writes"
