from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tiny
from pplr.data.dataset import Catalogue, Part, Queries, Ragged
from pplr.errors import ConfigError
from pplr.models.encoder import EncoderBackbone, EncoderSettings
from pplr.models.layout import TrainableRow
from pplr.models.lora import AdapterSettings
from pplr.seeds import drawn_seed

DATA = tiny.dataset()
CLS, SEP = 2, 3


def backbone(kind="bert", **settings):
    chosen = {"adapter": AdapterSettings(rank=2, dropout=0.0), "history_tokens": 60, "item_tokens": 12} | settings
    return EncoderBackbone(
        EncoderSettings(**chosen), DATA.catalogue, tiny.encoder(kind), tiny.word_tokenizer(), tiny.CPU
    )


def random_row(layout):
    return torch.randn(layout.size, generator=torch.Generator().manual_seed(0)) * 0.3


def item_ids(catalogue, item, limit=12):
    """Title, then `name: value` pairs, as the paper of RecFormer (arXiv:2305.13731) describes an item."""
    genre = catalogue.attributes["genre"][item].replace("|", ", ")
    text = catalogue.titles[item] + (f"; genre: {genre}" if genre else "")
    return tiny.word_tokenizer()(text, add_special_tokens=False)["input_ids"][:limit]


def vector(body, ids):
    """The unit vector of one text, read alone: no padding, no mask."""
    states = body(input_ids=torch.tensor([ids])).last_hidden_state[0]
    mean = states.sum(0) / len(ids)
    return mean / mean.norm()


def plain_scores(tested, parameters, history, room=60):
    ids = [CLS]
    for item in reversed(history):
        piece = item_ids(DATA.catalogue, item)
        if len(ids) + len(piece) + 1 > room:
            break
        ids += piece
    ids.append(SEP)
    with tested.lora.bound(parameters), torch.no_grad():
        items = torch.stack([vector(tested._body, [CLS, *item_ids(DATA.catalogue, i), SEP]) for i in range(30)])
        cosines = items @ vector(tested._body, ids)
    return cosines / tested.settings.temperature + parameters.get("bias", torch.zeros(30))


@pytest.mark.parametrize(
    ("kind", "settings"), [("bert", {}), ("mpnet", {}), ("bert", {"bias": "none", "temperature": 0.5})]
)
def test_scores_are_cosines_by_temperature_plus_bias(kind, settings):
    tested = backbone(kind, **settings)
    parameters = tested.layout.views(random_row(tested.layout))
    histories = [[3], [5, 6, 7], list(range(10))]
    queries = Queries(np.arange(3), Ragged.from_rows(histories), Ragged.from_rows([[0]] * 3))
    scores = tested.scorer(parameters).scores(queries)
    for history, found in zip(histories, scores, strict=True):
        torch.testing.assert_close(found, plain_scores(tested, parameters, history), rtol=1e-3, atol=1e-3)


def test_loss_is_the_cross_entropy_over_the_catalogue():
    tested = backbone()
    parameters = tested.layout.views(random_row(tested.layout))
    examples = tested.examples(DATA.training())
    rows = np.array([0, 7, 3, 20])
    loss = tested.loss(parameters, None, examples, rows, training=False)
    expected = 0.0
    for i in rows:
        scores = plain_scores(tested, parameters, examples.histories[i].tolist()).double()
        expected += float(scores.exp().sum().log() - scores[examples.targets[i]])
    assert loss.targets == 4
    assert loss.tokens == int(examples.lengths[rows].sum())
    assert float(loss.total) == pytest.approx(expected, rel=1e-4)


def test_gradients_reach_factors_and_bias():
    tested = backbone()
    examples = tested.examples(DATA.training())
    trained = TrainableRow(tested.layout, random_row(tested.layout))
    catalogue = tested.encode_catalogue(trained.frozen())
    assert not catalogue.requires_grad
    tested.loss(trained.named, catalogue, examples, np.arange(4), training=True).total.backward()
    assert all(leaf.grad.abs().max() > 0 for leaf in trained.named.values())


def test_sampled_negatives_are_targets_of_the_batch_and_draws():
    tested, whole = backbone(negatives=5), backbone()
    parameters = tested.layout.views(random_row(tested.layout))
    examples = tested.examples(DATA.training())
    rows = np.array([0, 7, 3, 20])
    catalogue = tested.encode_catalogue(parameters)
    torch.manual_seed(4)
    found = tested.loss(parameters, catalogue, examples, rows, training=True)
    torch.manual_seed(4)
    drawn_seed()  # of the adapters' dropout, which comes first
    drawn = torch.randint(30, (5,)).tolist()
    columns = sorted({*drawn, *examples.targets[rows].tolist()})
    expected = 0.0
    for i in rows:
        scores = plain_scores(tested, parameters, examples.histories[i].tolist()).double()
        expected += float(scores[columns].exp().sum().log() - scores[examples.targets[i]])
    assert float(found.total) == pytest.approx(expected, rel=1e-4)
    still = tested.loss(parameters, catalogue, examples, rows, training=False)
    over_all = whole.loss(parameters, catalogue, examples, rows, training=False)
    assert float(still.total) == pytest.approx(float(over_all.total), rel=1e-6), "measured over the whole catalogue"


@pytest.mark.parametrize("negatives", [0, 4])
def test_among_its_own_items_a_client_leaves_the_bias_of_all_others_where_it_is(negatives):
    tested = backbone(contrast="own", negatives=negatives)
    examples = tested.examples(DATA.training().select(np.arange(3)))
    known = sorted({*examples.histories.values.tolist(), *examples.targets.tolist()})
    assert negatives < len(known) < 30
    trained = TrainableRow(tested.layout, random_row(tested.layout))
    catalogue, rows = tested.encode_catalogue(trained.frozen()), np.array([0, 2])
    torch.manual_seed(4)
    loss = tested.loss(trained.named, catalogue, examples, rows, training=True)
    torch.manual_seed(4)
    drawn_seed()
    drawn = torch.randint(len(known), (negatives,)).tolist()
    columns = sorted({*(known[i] for i in drawn), *examples.targets[rows].tolist()}) if negatives else known
    expected = 0.0
    for i in rows:
        scores = plain_scores(tested, trained.frozen(), examples.histories[i].tolist()).double()
        expected += float(scores[columns].exp().sum().log() - scores[examples.targets[i]])
        expected += 0 if negatives else math.log(30 / len(known))
    assert float(loss.total.detach()) == pytest.approx(expected, rel=1e-4)
    loss.total.backward()
    assert torch.nonzero(trained.named["bias"].grad)[:, 0].tolist() == columns


def test_known_items_are_its_own_and_those_whose_bias_anybody_has_moved():
    tested = backbone(contrast="known")
    examples = tested.examples(DATA.training().select(np.arange(3)))
    own = set(examples.items.tolist())
    moved = [item for item in range(30) if item not in own][:4]
    row = random_row(tested.layout)
    bias = tested.layout.views(row)["bias"]
    bias.zero_()
    bias[moved] = 0.5
    trained = TrainableRow(tested.layout, row)
    tested.loss(trained.named, None, examples, np.arange(3), training=True).total.backward()
    assert torch.nonzero(trained.named["bias"].grad)[:, 0].tolist() == sorted({*own, *moved})
    told = tested.scorer(tested.layout.views(row)).new_items
    assert torch.nonzero(~told)[:, 0].tolist() == moved, (
        "a row tells what was trained into it, not what the next training adds"
    )
    filled, zero = row.clone(), backbone(contrast="known", new_bias="zero")
    tested.layout.views(filled)["bias"][told] = 0.5
    queries, held_out = DATA.queries(Part.TEST), tested.query_examples(DATA.queries(Part.TEST))
    both = ((tested, row), (zero, filled))
    found, expected = (each.scorer(each.layout.views(of)).scores(queries) for each, of in both)
    assert torch.allclose(found, expected)
    found, expected = (
        each.loss(each.layout.views(of), None, held_out, np.arange(2), training=False).total for each, of in both
    )
    assert torch.allclose(found, expected)


@pytest.mark.parametrize("bias", ["private", "none"])
def test_without_a_shared_bias_any_item_may_be_known(bias):
    losses = []
    for contrast in ("known", "catalogue"):
        tested = backbone(contrast=contrast, bias=bias)
        examples = tested.examples(DATA.training().select(np.arange(3)))
        trained = TrainableRow(tested.layout, random_row(tested.layout))
        catalogue = tested.encode_catalogue(trained.frozen())
        losses.append(
            float(tested.loss(trained.named, catalogue, examples, np.arange(3), training=True).total.detach())
        )
    assert losses[0] == losses[1]


ENCODER = backbone(history_items=6, history_tokens=30)


@given(st.lists(st.integers(0, 29), min_size=1, max_size=12))
def test_histories_are_newest_first_whole_items_within_the_budget(history):
    ids = ENCODER._history_ids(np.array(history, np.int64))
    kept = history[-6:]
    while 2 + sum(len(item_ids(DATA.catalogue, item)) for item in kept) > 30:
        kept = kept[1:]
    assert ids == [CLS, *(t for item in reversed(kept) for t in item_ids(DATA.catalogue, item)), SEP]
    assert kept, "the newest item always fits"


def test_measured_lengths_are_those_of_the_texts():
    queries = DATA.queries(Part.VALIDATION)
    examples = ENCODER.query_examples(queries)
    assert examples.targets.tolist() == queries.targets.values.tolist()
    assert examples.lengths.tolist() == [len(ENCODER._history_ids(history)) for history in queries.histories]


def test_item_vectors_are_encoded_every_epoch_and_in_the_second_stage_every_round():
    tested = backbone(second_stage=0.4)
    assert [tested.refresh(progress) for progress in (0.0, 0.39, 0.4, 0.9)] == ["epoch", "epoch", "round", "round"]


@pytest.mark.parametrize("where", ["shared", "private", "none"])
def test_the_bias_stands_where_the_settings_say(where):
    specs = {spec.name: spec for spec in backbone(bias=where).layout.specs}
    assert ("bias" in specs) is (where != "none")
    assert where == "none" or (specs["bias"].private is (where == "private") and not specs["bias"].decay)


def test_texts_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match=r"history_tokens = 8 is shorter than the longest item text \(1\d"):
        backbone(history_tokens=8)
    with pytest.raises(ConfigError, match=r"history_tokens = 131.*reads 130 tokens"):
        backbone(history_tokens=131)
    with pytest.raises(ConfigError, match=r"history_tokens = 129.*reads 128 tokens"):  # MPNet's first two are padding
        backbone("mpnet", history_tokens=129)
    assert backbone("mpnet", history_tokens=128)


def test_the_longest_history_that_is_allowed_can_be_read():
    long = " ".join(tiny.WORDS[:12])
    catalogue = Catalogue(tuple(map(str, range(20))), (long,) * 20)
    for kind, room in (("bert", 130), ("mpnet", 128), ("longformer", 129)):
        settings = EncoderSettings(history_items=100, history_tokens=room, item_tokens=12)
        tested = EncoderBackbone(settings, catalogue, tiny.encoder(kind), tiny.word_tokenizer(), tiny.CPU)
        examples = tested.examples(Ragged.from_rows([list(range(20))]))
        parameters = tested.layout.views(tested.layout.initial_row(0))
        with torch.no_grad():
            assert torch.isfinite(tested.loss(parameters, None, examples, np.array([18]), training=False).total)
        assert examples.lengths[18] == 2 + 12 * ((room - 2) // 12)
