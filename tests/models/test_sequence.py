from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tiny
from pplr.data.dataset import Part, Queries, Ragged
from pplr.errors import ConfigError
from pplr.federation.strategies import FedPer
from pplr.models.layout import Layout, TrainableRow
from pplr.models.lora import AdapterSettings
from pplr.models.sequence import SequenceBackbone
from pplr.models.sequence_network import hidden_states
from pplr.models.sequence_settings import SequenceSettings

DATA = tiny.dataset()


@pytest.fixture(scope="module")
def plain():
    return tiny.sequence_backbone(DATA, layers=2, dropout=0.0)


@pytest.fixture(scope="module")
def adapted():
    return tiny.sequence_backbone(
        DATA, dropout=0.0, adapters=True, live_items=4, adapter=AdapterSettings(rank=2, dropout=0.0)
    )


def random_row(layout):
    return torch.randn(layout.size, generator=torch.Generator().manual_seed(0)) * 0.4


def naive_logits(p, vectors, items, *, layers, heads):
    """The formulas of the module with Python loops and NumPy in double precision: scores after each item."""
    p = {name: part.detach().numpy().astype(np.float64) for name, part in p.items()}
    table = vectors.numpy().astype(np.float64) @ p["projection"].T + p["residual"]
    width = table.shape[1]
    size = width // heads
    norm = lambda x, gain: x / np.sqrt((x**2).mean() + np.finfo(np.float32).eps) * gain  # noqa: E731
    xs = [table[item] + p["position"][t] for t, item in enumerate(items)]
    for layer in range(layers):
        name = f"block.{layer}"
        qkv = [p[f"{name}.qkv"] @ norm(x, p[f"{name}.norm_attention"]) for x in xs]
        after = []
        for t, x in enumerate(xs):
            mixed = []
            for head in range(heads):
                cut = slice(head * size, (head + 1) * size)
                q = qkv[t][:width][cut]
                weights = [math.exp(q @ qkv[s][width : 2 * width][cut] / math.sqrt(size)) for s in range(t + 1)]
                mixed.append(sum(w * qkv[s][2 * width :][cut] for s, w in enumerate(weights)) / sum(weights))
            after.append(x + p[f"{name}.out"] @ np.concatenate(mixed))
        xs = []
        for x in after:
            z = p[f"{name}.up"] @ norm(x, p[f"{name}.norm_feed"]) + p[f"{name}.up_bias"]
            z = np.array([v * 0.5 * (1 + math.erf(v / math.sqrt(2))) for v in z])
            xs.append(x + p[f"{name}.down"] @ z)
    states = [norm(x, p["norm_final"]) for x in xs]
    return [state / math.sqrt(width) @ table.T + p["bias"] for state in states]


def log_likelihood(logits, item):
    return logits[item] - logits.max() - math.log(np.exp(logits - logits.max()).sum())


def test_loss_equals_a_naive_computation(plain):
    row = random_row(plain.layout)
    parameters = plain.layout.views(row)
    examples = plain.examples(DATA.training().select(np.arange(6)))
    rows = np.array([0, 2, 5, 1])
    expected, targets = 0.0, 0
    for i in rows:
        window = examples.windows[i]
        logits = naive_logits(parameters, plain.vectors, window[:-1], layers=2, heads=2)
        for position in range(len(window) - 1 - examples.scored[i], len(window) - 1):
            expected -= log_likelihood(logits[position], window[position + 1])
            targets += 1
    loss = plain.loss(parameters, None, examples, rows, training=False)
    assert loss.targets == targets
    assert loss.tokens == sum(len(examples.windows[i]) - 1 for i in rows)
    assert float(loss.total) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("contrast", "bias"), [("catalogue", "shared"), ("own", "shared"), ("catalogue", "none")])
def test_gradients_of_many_states_are_those_of_all_logits_at_once(contrast, bias):
    backbone = tiny.sequence_backbone(DATA, layers=1, dropout=0.0, contrast=contrast, bias=bias)
    row, examples = random_row(backbone.layout), backbone.examples(DATA.training())
    rows, known = np.arange(len(examples)), examples.items
    found, expected = (TrainableRow(backbone.layout, row) for _ in range(2))
    loss = backbone.loss(found.named, None, examples, rows, training=True)
    loss.total.backward()
    p, total = expected.named, torch.zeros(())
    table = torch.nn.functional.linear(backbone.vectors, p["projection"]) + p["residual"]
    for window in examples.windows:
        states = hidden_states(p, table[torch.from_numpy(window[:-1])][None], layers=1, heads=2)[0]
        logits = states @ table.T / math.sqrt(8) + (p["bias"] if bias == "shared" else 0)
        among = known if contrast == "own" else np.arange(backbone.items)
        wanted = torch.from_numpy(np.searchsorted(among, window[1:]))
        total = total + torch.nn.functional.cross_entropy(logits[:, among], wanted, reduction="sum")
    total.backward()
    assert loss.targets > 128, "more than a chunk"
    torch.testing.assert_close(found.gradient, expected.gradient, rtol=1e-3, atol=1e-4)


def test_among_its_own_items_a_client_leaves_all_others_where_they_are(plain):
    own = tiny.sequence_backbone(DATA, layers=2, dropout=0.0, contrast="own")
    row = random_row(own.layout)
    examples = own.examples(DATA.training().select(np.arange(3)))
    rows, known = np.array([0, 2]), sorted({*examples.windows.values.tolist()})
    assert 2 < len(known) < 30
    expected = 0.0
    for i in rows:
        window = examples.windows[i]
        logits = naive_logits(own.layout.views(row), own.vectors, window[:-1], layers=2, heads=2)
        for position in range(len(window) - 1 - examples.scored[i], len(window) - 1):
            expected -= log_likelihood(logits[position][known], known.index(window[position + 1]))
            expected += math.log(30 / len(known))  # a guess costs the same, whoever has how many items
    trained = TrainableRow(own.layout, row)
    loss = own.loss(trained.named, None, examples, rows, training=True)
    total = float(loss.total.detach())
    assert total == pytest.approx(expected, rel=1e-5)
    loss.total.backward()
    for name in ("residual", "bias"):
        moved = trained.named[name].grad.reshape(30, -1).any(1)
        assert torch.nonzero(moved)[:, 0].tolist() == known
    for measured in (own, plain):
        found = measured.loss(own.layout.views(row), None, examples, rows, training=False)
        assert float(found.total) != pytest.approx(total, rel=1e-3), "measured over the whole catalogue"


@pytest.mark.parametrize("table", ["bias", "residual"])
def test_known_items_are_its_own_and_those_that_anybody_has_moved(table):
    where = {"bias": "shared" if table == "bias" else "none"}
    known_ones = tiny.sequence_backbone(DATA, layers=2, dropout=0.0, contrast="known", **where)
    among_all = tiny.sequence_backbone(DATA, layers=2, dropout=0.0, **where)
    examples = known_ones.examples(DATA.training().select(np.arange(3)))
    own = set(examples.items.tolist())
    moved = [item for item in range(30) if item not in own][:4]
    row = random_row(known_ones.layout)
    for name in {"bias", "residual"} & known_ones.layout.views(row).keys():
        still = torch.ones(30, dtype=torch.bool)
        still[moved] = False
        known_ones.layout.views(row)[name][still] = 0.0
    expected = sorted({*own, *moved})
    assert len(expected) < 30
    trained = TrainableRow(known_ones.layout, row)
    loss = known_ones.loss(trained.named, None, examples, np.arange(3), training=True)
    loss.total.backward()
    for name in {"bias", "residual"} & trained.named.keys():
        touched = trained.named[name].grad.reshape(30, -1).any(1)
        assert torch.nonzero(touched)[:, 0].tolist() == expected
    gradient = known_ones.item_gradient(trained.frozen(), None, examples, 20)
    assert torch.nonzero(gradient.any(1))[:, 0].tolist() == expected
    fewer = float(loss.total.detach()) - loss.targets * math.log(30 / len(expected))
    every = float(among_all.loss(trained.frozen(), None, examples, np.arange(3), training=True).total)
    assert fewer < every, "the same scores, fewer to tell apart"


@pytest.mark.parametrize(("names", "among_all"), [(("bias",), False), (("bias", "residual"), True), (("*",), True)])
def test_tables_that_a_strategy_keeps_private_tell_of_no_other_clients_items(names, among_all):
    tested = tiny.sequence_backbone(DATA, layers=2, dropout=0.0, contrast="known")
    tested.layout = Layout(FedPer(names=names).scope(tested.layout.specs))
    examples = tested.examples(DATA.training().select(np.arange(3)))
    trained = TrainableRow(tested.layout, tested.layout.initial_row(1))
    tested.loss(trained.named, None, examples, np.arange(3), training=True).total.backward()
    touched = torch.nonzero(trained.named["bias"].grad)[:, 0].tolist()
    assert touched == (list(range(30)) if among_all else examples.items.tolist())


def test_without_a_shared_table_any_item_may_be_known():
    known = tiny.sequence_backbone(DATA, layers=2, dropout=0.0, contrast="known", bias="none", residual="private")
    every = tiny.sequence_backbone(DATA, layers=2, dropout=0.0, contrast="catalogue", bias="none", residual="private")
    row, examples = random_row(known.layout), known.examples(DATA.training().select(np.arange(3)))
    assert len(examples.items) < 30
    losses = []
    for backbone in (known, every):
        trained = TrainableRow(backbone.layout, row.clone())
        losses.append(backbone.loss(trained.named, None, examples, np.arange(3), training=True).total)
        losses[-1].backward()
        assert trained.named["residual"].grad.any(1).all()
    assert losses[0] == losses[1]


@pytest.mark.parametrize("contrast", ["catalogue", "known", "own"])
def test_what_nobody_has_trained_with_is_pushed_down_by_the_whole_catalogue_only(contrast):
    coordinator, members = tiny.federation(
        None, clients=2, users=4, rounds=3, backbone_settings={"contrast": contrast, "bias": "shared"}
    )
    coordinator.run()
    everyones = set(np.concatenate([member._data.training.values for member in members]).tolist())
    assert 5 < len(everyones) < 30
    for row in coordinator.bank.rows:
        views = members[0]._backbone.layout.views(row)
        sunk = set(torch.nonzero(views["bias"])[:, 0].tolist())
        assert sunk == (set(range(30)) if contrast == "catalogue" else everyones)
        told = members[0]._backbone.scorer(views).new_items
        assert (told is None) == (contrast == "catalogue")
        assert told is None or set(torch.nonzero(told)[:, 0].tolist()) == set(range(30)) - everyones


@pytest.mark.parametrize("private", [("bias",), ("residual",), ("bias", "residual"), ()])
def test_new_items_are_told_by_all_tables_that_are_shared_and_by_no_other(private):
    backbone = tiny.sequence_backbone(DATA, contrast="known")
    backbone.layout = Layout(FedPer(names=private or ("projection",)).scope(backbone.layout.specs))
    row = backbone.layout.initial_row(1)
    views = backbone.layout.views(row)
    views["bias"][[1, 2]] = 0.5
    views["residual"][[2, 3], 4] = -0.1
    moved = {*([] if "bias" in private else [1, 2]), *([] if "residual" in private else [2, 3])}
    told = backbone.scorer(views).new_items
    if not moved:
        assert told is None
        return
    assert set(torch.nonzero(~told)[:, 0].tolist()) == moved
    backbone.settings = backbone.settings.model_copy(update={"contrast": "catalogue"})
    assert backbone.scorer(views).new_items is None


@pytest.mark.parametrize("contrast", ["known", "own", "catalogue"])
def test_a_new_item_is_measured_with_the_mean_bias_of_all_others(contrast):
    mean, zero = (
        tiny.sequence_backbone(DATA, layers=2, dropout=0.0, contrast=contrast, new_bias=how) for how in ("mean", "zero")
    )
    row, known = random_row(mean.layout), torch.arange(30) % 3 > 0
    for name in ("bias", "residual"):
        mean.layout.views(row)[name][~known] = 0.0
    filled = row.clone()
    biases = mean.layout.views(filled)["bias"]
    if contrast != "catalogue":
        biases[~known] = biases[known].mean()
    queries, examples = DATA.queries(Part.TEST), mean.query_examples(DATA.queries(Part.TEST))
    found, expected = (
        backbone.scorer(backbone.layout.views(each)).scores(queries) for backbone, each in ((mean, row), (zero, filled))
    )
    assert torch.equal(found, expected)
    changed = not torch.equal(found, zero.scorer(zero.layout.views(row)).scores(queries))
    assert changed == (contrast != "catalogue")
    some = np.arange(3)
    losses = [
        float(backbone.loss(backbone.layout.views(each), None, examples, some, training=False).total)
        for backbone, each in ((mean, row), (zero, filled))
    ]
    assert losses[0] == losses[1]
    trained = [
        float(backbone.loss(backbone.layout.views(row), None, examples, some, training=True).total)
        for backbone in (mean, zero)
    ]
    assert trained[0] == trained[1], "training is the same"


@pytest.mark.parametrize(("bias", "residual"), [("shared", "shared"), ("none", "shared"), ("none", "none")])
def test_before_any_training_no_item_is_told_from_others(bias, residual):
    backbone = tiny.sequence_backbone(DATA, bias=bias, residual=residual)
    assert backbone.scorer(backbone.layout.views(backbone.layout.initial_row(1))).new_items is None


def test_the_gradient_of_item_vectors_is_of_its_own_items_alone(plain):
    own = tiny.sequence_backbone(DATA, layers=2, dropout=0.0, contrast="own")
    parameters = own.layout.views(random_row(own.layout))
    examples = own.examples(DATA.training().select(np.arange(3)))
    found = own.item_gradient(parameters, None, examples, 20)
    assert torch.nonzero(found.any(1))[:, 0].tolist() == examples.items.tolist()
    assert plain.item_gradient(parameters, None, examples, 20).any(1).all()


def test_whose_items_are_all_items_learns_the_same_either_way(plain):
    own = tiny.sequence_backbone(DATA, layers=2, dropout=0.0, contrast="own")
    examples = own.examples(DATA.training())
    assert len(examples.items) == 30
    found = []
    for backbone in (own, plain):
        trained = TrainableRow(backbone.layout, random_row(backbone.layout))
        backbone.loss(trained.named, None, examples, np.arange(9), training=True).total.backward()
        found.append(trained.gradient)
    torch.testing.assert_close(*found)


def test_query_examples_score_only_the_target(plain):
    queries = Queries(np.array([0]), Ragged.from_rows([[3, 1, 4, 1, 5, 9, 2, 6]]), Ragged.from_rows([[7, 8]]))
    examples = plain.query_examples(queries)
    assert [window.tolist() for window in examples.windows] == [[4, 1, 5, 9, 2, 6, 7], [4, 1, 5, 9, 2, 6, 8]]
    parameters = plain.layout.views(random_row(plain.layout))
    logits = naive_logits(parameters, plain.vectors, [4, 1, 5, 9, 2, 6], layers=2, heads=2)[-1]
    loss = plain.loss(parameters, None, examples, np.arange(2), training=False)
    assert loss.targets == 2
    assert float(loss.total) == pytest.approx(-log_likelihood(logits, 7) - log_likelihood(logits, 8), rel=1e-5)


def test_scores_read_the_newest_positions(plain):
    parameters = plain.layout.views(random_row(plain.layout))
    histories = [[3], [5, 6, 7], [1, 2, 3, 4, 5, 6], [20, 21, 22, 1, 2, 3, 4, 5, 6]]
    queries = Queries(np.arange(4), Ragged.from_rows(histories), Ragged.from_rows([[0]] * 4))
    scores = plain.scorer(parameters).scores(queries)
    for history, found in zip(histories, scores, strict=True):
        expected = naive_logits(parameters, plain.vectors, history[-6:], layers=2, heads=2)[-1]
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-4)
    assert torch.allclose(scores[2], scores[3], atol=1e-5)


@given(st.lists(st.integers(0, 29), min_size=2, max_size=6), st.data())
def test_later_items_do_not_change_earlier_states(plain, items, data):
    at = data.draw(st.integers(1, len(items) - 1))
    changed = [*items[:at], *(29 - item for item in items[at:])]
    parameters = plain.layout.views(random_row(plain.layout))
    table = plain.item_embeddings(parameters)
    before, after = (plain._states(parameters, table[torch.tensor([row])], 0.0) for row in (items, changed))
    torch.testing.assert_close(before[:, :at], after[:, :at], rtol=1e-5, atol=1e-5)


@given(st.lists(st.integers(0, 40), max_size=6), st.integers(2, 9))
def test_every_event_but_the_first_is_a_target_exactly_once(lengths, positions):
    settings = SequenceSettings(width=8, layers=1, heads=2, positions=positions)
    vectors = torch.randn(DATA_ITEMS, 4, generator=torch.Generator().manual_seed(0))
    backbone = SequenceBackbone(settings, tiny.catalogue(DATA_ITEMS), None, None, tiny.CPU, vectors=vectors)
    starts = np.cumsum([0, *lengths])
    histories = [np.arange(a, b) for a, b in zip(starts[:-1], starts[1:], strict=True)]  # every event has its own code
    examples = backbone.examples(Ragged.from_rows(histories))
    targets = [int(t) for i in range(len(examples)) for t in examples.windows[i][-examples.scored[i] :]]
    assert sorted(targets) == sorted(int(item) for row in histories for item in row[1:])
    for window in examples.windows:
        assert 2 <= len(window) <= positions + 1
        assert (np.diff(window) == 1).all()


DATA_ITEMS = 250


def test_adapters_get_gradients_from_the_live_items(adapted):
    examples = adapted.examples(DATA.training().select(np.arange(4)))
    trained = TrainableRow(adapted.layout, random_row(adapted.layout))
    catalogue = adapted.encode_catalogue(trained.frozen())
    torch.manual_seed(0)
    loss = adapted.loss(trained.named, catalogue, examples, np.arange(4), training=True)
    loss.total.backward()
    factors = [name for name in trained.named if ".lora_" in name]
    assert len(factors) == 8
    assert all(trained.named[name].grad.abs().max() > 0 for name in factors)
    still = adapted.loss(trained.named, catalogue, examples, np.arange(4), training=False)
    assert float(loss.total.detach()) == pytest.approx(float(still.total.detach()), rel=1e-4), (
        "fresh vectors equal those just encoded"
    )


def test_adapters_change_the_catalogue_and_none_are_the_frozen_vectors(adapted, plain):
    fresh = adapted.layout.initial_row(0)
    torch.testing.assert_close(
        adapted.encode_catalogue(adapted.layout.views(fresh)), adapted.vectors, rtol=1e-4, atol=1e-4
    )
    moved = adapted.encode_catalogue(adapted.layout.views(random_row(adapted.layout)))
    assert (moved - adapted.vectors).abs().max() > 0.1
    assert plain.encode_catalogue(plain.layout.views(plain.layout.initial_row(0))) is None


def test_vectors_alone_are_the_same_backbone(plain):
    body, tokenizer = tiny.encoder("bert"), tiny.word_tokenizer()
    from pplr.models.text import item_texts
    from pplr.models.vectors import encode, tokenise

    raw = encode(body, tokenise(tokenizer, item_texts(DATA.catalogue), plain.settings.item_tokens))
    without = SequenceBackbone(plain.settings, DATA.catalogue, None, None, tiny.CPU, vectors=raw)
    torch.testing.assert_close(without.vectors, plain.vectors)
    np.testing.assert_allclose(plain.vectors.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(plain.vectors.std(0), 1, rtol=1e-4)


def test_a_backbone_without_any_vectors_is_refused():
    for settings in (SequenceSettings(), SequenceSettings(adapters=True)):
        with pytest.raises(ConfigError, match="needs a language model"):
            SequenceBackbone(settings, DATA.catalogue, None, None, tiny.CPU)


@pytest.mark.parametrize("where", ["shared", "private", "none"])
def test_residual_and_bias_stand_where_the_settings_say(where):
    backbone = tiny.sequence_backbone(DATA, residual=where, bias=where)
    private = {spec.name for spec in backbone.layout.specs if spec.private}
    names = {spec.name for spec in backbone.layout.specs}
    assert private == ({"residual", "bias"} if where == "private" else set())
    assert ({"residual", "bias"} <= names) is (where != "none")
    queries = DATA.queries(Part.TEST)
    scores = backbone.scorer(backbone.layout.views(backbone.layout.initial_row(0))).scores(queries)
    assert scores.shape == (len(queries), 30)
    assert torch.isfinite(scores).all()


def test_dropout_is_drawn_in_training_only():
    backbone = tiny.sequence_backbone(DATA, dropout=0.5)
    parameters = backbone.layout.views(random_row(backbone.layout))
    examples = backbone.examples(DATA.training())

    def loss(training, seed):
        torch.manual_seed(seed)
        return float(backbone.loss(parameters, None, examples, np.arange(3), training=training).total)

    assert loss(False, 0) == loss(False, 1)
    assert loss(True, 0) == loss(True, 0) != loss(True, 1)


def test_scores_do_not_depend_on_whose_history_is_read_together():
    data = tiny.dataset()
    backbone = tiny.sequence_backbone(data)
    parameters = backbone.layout.views(backbone.layout.initial_row(3))
    table = backbone.item_embeddings(parameters)
    rows = [np.arange(length, dtype=np.int64) % 30 for length in (1, 9, 2, 6, 1, 4)]
    alone = torch.cat([backbone.scores(parameters, table, [row]) for row in rows])
    torch.testing.assert_close(backbone.scores(parameters, table, rows), alone, rtol=1e-5, atol=1e-5)
