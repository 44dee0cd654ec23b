from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tiny
from pplr.data.dataset import Part, Ragged
from pplr.errors import NumericalError
from pplr.models.batching import padded, shuffled_batches, sorted_batches
from pplr.models.layout import TrainableRow
from pplr.training import Place, TrainingSettings, mean_loss, train_locally
from pplr.training.local import _plan

DATA = tiny.dataset()
PLACE = Place(seed=3, client="client-1", round=2, progress=0.25)
SETTINGS = TrainingSettings(
    epochs=2, learning_rate=0.05, weight_decay=0.1, warmup_steps=5, clip_norm=0.5, batch_tokens=60
)


@pytest.fixture(scope="module")
def backbone():
    return tiny.sequence_backbone(DATA, dropout=0.3)


@pytest.fixture(scope="module")
def still():
    return tiny.sequence_backbone(DATA, dropout=0.0)


def train(backbone, settings=SETTINGS, place=PLACE, users=20, row=None):
    start = backbone.layout.initial_row(0) if row is None else row
    return train_locally(backbone, start, backbone.examples(DATA.training().select(np.arange(users))), settings, place)


def test_the_same_place_gives_the_same_bits_whatever_ran_before(backbone):
    one = train(backbone)
    torch.manual_seed(99)
    train(backbone, place=Place(3, "client-2", 2, 0.25))
    other = train(backbone)
    assert torch.equal(one.row, other.row)
    assert one.loss == other.loss


ELSEWHERE = [Place(4, "client-1", 2, 0.25), Place(3, "c", 2, 0.25), Place(3, "client-1", 3, 0.25)]


@pytest.mark.parametrize("place", ELSEWHERE, ids=["seed", "client", "round"])
def test_another_seed_client_or_round_draws_other_batches(still, place):
    assert not torch.equal(train(still).row, train(still, place=place).row)


@pytest.mark.parametrize("place", ELSEWHERE, ids=["seed", "client", "round"])
def test_another_seed_client_or_round_draws_other_dropout(backbone, place):
    one_batch = SETTINGS.model_copy(update={"epochs": 1})  # of one example: nothing but dropout is left to chance
    assert len(backbone.examples(DATA.training().select(np.arange(1)))) == 1
    one, other = (train(backbone, one_batch, p, users=1).row for p in (PLACE, place))
    assert not torch.equal(one, other)


def test_every_epoch_has_batches_of_its_own(still):
    plan = _plan(still.examples(DATA.training()).lengths, SETTINGS, PLACE)
    starts = [index for index, (starts_epoch, _) in enumerate(plan) if starts_epoch]
    assert len(starts) == SETTINGS.epochs
    first, second = plan[: starts[1]], plan[starts[1] :]
    assert [batch.tolist() for _, batch in first] != [batch.tolist() for _, batch in second]


def test_a_batch_has_no_more_examples_than_are_allowed(still):
    lengths = still.examples(DATA.training()).lengths
    few = SETTINGS.model_copy(update={"batch_examples": 2, "batch_tokens": 10_000})
    plan = [batch for _, batch in _plan(lengths, few, PLACE)]
    assert max(map(len, plan)) == 2
    assert sorted(np.concatenate(plan).tolist()) == sorted([*range(len(lengths))] * SETTINGS.epochs)
    assert max(len(batch) for _, batch in _plan(lengths, SETTINGS, PLACE)) > 2


@given(st.sampled_from([0.01, 0.07, 0.25, 0.3, 0.5, 0.99, 1.5, 2.25]), st.integers(1, 60), st.integers(0, 99))
def test_rounds_of_a_part_of_an_epoch_go_on_where_the_one_before_stopped(part, batches, seed):
    settings = TrainingSettings(epochs=part, batch_tokens=20)
    lengths = np.full(4 * batches, 5)
    rounds = 100 if part * batches >= 1 else 3 * batches  # after which whole epochs are done
    plans = [_plan(lengths, settings, Place(seed, "c", number, 0.0)) for number in range(1, rounds + 1)]
    assert max(abs(len(plan) - max(part * batches, 1)) for plan in plans) < 1
    taken = [batch for plan in plans for batch in plan]
    assert [index for index, (starts, _) in enumerate(taken) if starts] == list(range(0, len(taken), batches))
    for start in range(0, len(taken), batches):
        once = np.concatenate([batch for _, batch in taken[start : start + batches]])
        assert sorted(once.tolist()) == list(range(len(lengths)))
    assert len(taken) == (round(rounds * part) * batches if part * batches >= 1 else rounds)


def test_a_part_of_an_epoch_of_nothing_is_nothing():
    settings = TrainingSettings(epochs=0.5)
    assert _plan(np.zeros(0, dtype=np.int64), settings, PLACE) == []
    assert [len(_plan(np.array([5]), settings, Place(3, "c", number, 0.0))) for number in (1, 2, 3)] == [1, 1, 1]


def test_no_round_is_empty_where_epochs_have_more_and_fewer_batches():
    lengths = np.random.default_rng(3).integers(2, 50, 150)
    settings = TrainingSettings(epochs=0.01, batch_tokens=128)
    for client in "abcdefgh":
        plans = [_plan(lengths, settings, Place(1, client, number, 0.0)) for number in range(1, 201)]
        assert {len(plan) for plan in plans} <= {1, 2}


@given(st.lists(st.integers(1, 30), min_size=1, max_size=80), st.sampled_from([0.1, 0.25, 0.3, 0.7]))
def test_parts_of_examples_of_many_lengths_are_all_of_them(lengths, part):
    settings = TrainingSettings(epochs=part, batch_tokens=60)
    taken = Counter()
    for number in range(1, 101):
        plan = _plan(np.array(lengths), settings, Place(1, "c", number, 0.0))
        assert plan
        taken.update(int(index) for _, batch in plan for index in batch)
    assert max(taken.values()) - min(taken[index] for index in range(len(lengths))) <= 1


@pytest.mark.parametrize("part", [0.5, 0.25])
def test_parts_of_an_epoch_are_the_epoch_where_moments_are_kept(still, part):
    settings = TrainingSettings(epochs=part, learning_rate=0.02, batch_tokens=40, warmup_steps=3, schedule="constant")
    examples = still.examples(DATA.training().select(np.arange(40)))
    row, moments, targets = still.layout.initial_row(0), None, 0
    for number in range(1, round(1 / part) + 1):
        result = train_locally(still, row, examples, settings, Place(3, "c", number, 0.0), moments=moments)
        row, moments, targets = result.row, result.moments, targets + result.targets
    whole = train(still, settings.model_copy(update={"epochs": 1}), Place(3, "c", 1, 0.0), users=40)
    assert torch.equal(row, whole.row)
    assert targets == whole.targets


def test_neither_torchs_generator_nor_the_given_row_is_touched(backbone):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    row = backbone.layout.initial_row(0)
    train(backbone, row=row)
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(row, backbone.layout.initial_row(0))


def reference(backbone, settings, place, users=20):
    """AdamW as its paper writes it, in double precision over the same batches."""
    examples = backbone.examples(DATA.training().select(np.arange(users)))
    values = backbone.layout.initial_row(0).double()
    first, second = torch.zeros_like(values), torch.zeros_like(values)
    decay = torch.cat([torch.full((spec.size,), float(spec.decay)).double() for spec in backbone.layout.specs])
    total, targets, clipped = 0.0, 0, 0
    for step, (_, batch) in enumerate(_plan(examples.lengths, settings, place), start=1):
        trained = TrainableRow(backbone.layout, values.float())
        loss = backbone.loss(trained.named, None, examples, batch, training=True)
        (loss.total / loss.targets).backward()
        total, targets = total + float(loss.total.detach()), targets + loss.targets
        gradient = trained.gradient.double()
        norm = gradient.norm()
        if norm > settings.clip_norm:
            gradient, clipped = gradient * settings.clip_norm / norm, clipped + 1
        course = 0.5 * (1 + math.cos(math.pi * place.progress)) if settings.schedule == "cosine" else 1.0
        rate = settings.learning_rate * course * min(1, step / max(settings.warmup_steps, 1))
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        values = values - rate * settings.weight_decay * decay * values
        values = values - rate * (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
    return values, total / targets, targets, clipped, step


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_clipping_warm_up_decay_and_schedule_equal_a_plain_implementation(still, schedule):
    # few steps, and no element whose gradient is pure rounding noise: Adam divides by its size
    settings = SETTINGS.model_copy(update={"schedule": schedule, "epochs": 1})
    values, loss, targets, clipped, steps = reference(still, settings, PLACE)
    assert clipped > 0
    assert steps > settings.warmup_steps / 2
    found = train(still, settings)
    assert (found.steps, found.targets) == (steps, targets)
    assert found.loss == pytest.approx(loss, rel=1e-4)
    difference = (found.row.double() - values).abs()
    moved = (values - still.layout.initial_row(0).double()).abs().max()
    assert moved > 0.05
    assert difference.max() < 2e-3 * moved


def test_training_learns(still):
    row = still.layout.initial_row(0)
    examples = still.examples(DATA.training())
    before, targets = mean_loss(
        still, still.layout.views(row), still.encode_catalogue(still.layout.views(row)), examples, 200
    )
    after = train(still, SETTINGS.model_copy(update={"epochs": 10, "batch_tokens": 40}), users=40).row
    learned, _ = mean_loss(
        still, still.layout.views(after), still.encode_catalogue(still.layout.views(after)), examples, 200
    )
    assert learned < min(0.8 * before, math.log(len(DATA.catalogue)))  # better than a guess among all items
    assert targets == sum(max(len(history) - 1, 0) for history in DATA.training())


def test_mean_loss_does_not_depend_on_batches(still):
    parameters = still.layout.views(still.layout.initial_row(1))
    examples = still.query_examples(DATA.queries(Part.TEST))
    losses = [
        mean_loss(still, parameters, still.encode_catalogue(parameters), examples, size)[0] for size in (1, 17, 10_000)
    ]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-5)


def test_a_client_without_examples_keeps_its_row(still):
    examples = still.examples(Ragged.from_rows([[], [4]]))
    row = still.layout.initial_row(0)
    result = train_locally(still, row, examples, SETTINGS, PLACE)
    assert torch.equal(result.row, row)
    assert (result.steps, result.targets, math.isnan(result.loss)) == (0, 0, True)
    loss, targets = mean_loss(
        still, still.layout.views(row), still.encode_catalogue(still.layout.views(row)), examples, 100
    )
    assert (math.isnan(loss), targets) == (True, 0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_a_sentence(still, bad):
    row = still.layout.initial_row(0)
    still.layout.views(row)["projection"][0, 0] = bad
    with pytest.raises(NumericalError, match=r"The loss of client client-1 became nan in round 2, step 1\. Lower"):
        train(still, row=row)


def test_progress_is_reported_after_every_step(still):
    seen = []
    examples = still.examples(DATA.training().select(np.arange(20)))
    result = train_locally(still, still.layout.initial_row(0), examples, SETTINGS, PLACE, report=seen.append)
    assert [progress.step for progress in seen] == list(range(1, result.steps + 1))
    assert {progress.steps for progress in seen} == {result.steps}
    assert seen[-1].loss == pytest.approx(result.loss)
    assert set(result.seconds) == {"encode", "forward", "backward", "optimiser", "total"}
    assert sum(v for k, v in result.seconds.items() if k != "total") <= result.seconds["total"]


LENGTHS = st.lists(st.integers(0, 50), max_size=80).map(lambda values: np.asarray(values, np.int64))


@given(LENGTHS, st.integers(1, 120), st.none() | st.integers(1, 9), st.integers(1, 4), st.integers(0, 2**31))
def test_batches_cover_every_example_once_within_the_budget(lengths, budget, most, pool, seed):
    shuffled = shuffled_batches(lengths, budget, most, np.random.default_rng(seed), pool)
    for batches in (shuffled, sorted_batches(lengths, budget, most)):
        assert Counter(int(i) for batch in batches for i in batch) == Counter(range(len(lengths)))
        for batch in batches:
            assert len(batch) == 1 or len(batch) * int(lengths[batch].max()) <= budget
            assert most is None or len(batch) <= most
    longest = [int(lengths[batch].max()) for batch in sorted_batches(lengths, budget, most)]
    assert longest == sorted(longest, reverse=True)


def test_epochs_meet_in_other_batches():
    lengths = np.full(60, 5)
    rng = np.random.default_rng(0)
    one, other = (shuffled_batches(lengths, 20, None, rng) for _ in range(2))
    assert {frozenset(batch.tolist()) for batch in one} != {frozenset(batch.tolist()) for batch in other}


@pytest.mark.parametrize("left", [False, True])
def test_padding(left):
    ids, mask = padded([[5, 6], [], [7, 8, 9]], tiny.CPU, left=left)
    assert ids.tolist() == ([[0, 5, 6], [0, 0, 0], [7, 8, 9]] if left else [[5, 6, 0], [0, 0, 0], [7, 8, 9]])
    assert mask.tolist() == (ids > 0).long().tolist()


def test_a_client_may_train_the_vectors_of_its_own_items_only():
    data = tiny.dataset()
    backbone = tiny.sequence_backbone(data, residual="shared", bias="shared")
    examples = backbone.examples(data.training().select(np.arange(2)))
    row = backbone.layout.initial_row(0) + 0.1
    settings = TrainingSettings(epochs=2, learning_rate=0.02, weight_decay=0.3, batch_tokens=40)
    place = Place(1, "client-0", 1, 0.0)
    before = backbone.layout.views(row)
    own = backbone.layout.views(train_locally(backbone, row, examples, settings, place, own_items=True).row)
    every = backbone.layout.views(train_locally(backbone, row, examples, settings, place).row)
    mine = np.isin(np.arange(backbone.items), examples.items)
    assert 0 < mine.sum() < backbone.items
    moved = (own["residual"] != before["residual"]).any(1).numpy()
    np.testing.assert_array_equal(moved, mine)
    assert (every["residual"] != before["residual"]).any(1).all(), "otherwise every item is pushed away or decays"
    assert (own["bias"] != before["bias"]).all(), "the bias is no vector of an item"
    assert (own["projection"] != before["projection"]).any()


@pytest.mark.parametrize("own_items", [False, True])
@pytest.mark.parametrize("residual", ["shared", "private"])
def test_vectors_of_items_learn_at_a_rate_of_their_own(residual, own_items):
    data = tiny.dataset()
    backbone = tiny.sequence_backbone(data, residual=residual, bias="shared", contrast="catalogue")
    examples = backbone.examples(data.training().select(np.arange(2)))
    row, place = backbone.layout.initial_row(0), Place(1, "client-0", 1, 0.0)
    once = TrainingSettings(learning_rate=0.02, batch_tokens=10_000, warmup_steps=0)

    def moved(settings):
        trained = train_locally(backbone, row, examples, settings, place, own_items=own_items)
        assert trained.steps == 1
        return backbone.layout.views(trained.row)

    before = backbone.layout.views(row)["residual"]
    common, threefold = moved(once), moved(once.model_copy(update={"item_rate": 3.0}))
    assert torch.equal(common["projection"], threefold["projection"])
    assert torch.equal(common["bias"], threefold["bias"])
    step = common["residual"] - before
    torch.testing.assert_close(threefold["residual"], before + 3 * step)
    assert step.any(1).all() == (residual == "private" or not own_items)


def test_a_client_that_keeps_its_moments_takes_the_steps_of_one_optimiser_over_all_rounds():
    data = tiny.dataset()
    backbone = tiny.sequence_backbone(data, residual="shared", bias="shared", dropout=0.0)
    examples = backbone.examples(data.training().select(np.arange(4)))
    settings = TrainingSettings(
        learning_rate=0.02, batch_tokens=10_000, warmup_steps=0, weight_decay=0.0, schedule="constant", moments="kept"
    )
    row = backbone.layout.initial_row(0)
    reference = row.clone().requires_grad_()
    adam = torch.optim.AdamW([reference], lr=0.02, weight_decay=0.0)
    moments, fresh = None, row
    for number in (1, 2, 3):
        place = Place(1, "client-0", number, 0.0)
        result = train_locally(backbone, row, examples, settings, place, moments=moments)
        fresh = train_locally(backbone, fresh, examples, settings.model_copy(update={"moments": "fresh"}), place)
        assert (result.steps, fresh.moments) == (1, {})
        row, moments, fresh = result.row, result.moments, fresh.row
        adam.zero_grad()
        loss = backbone.loss(backbone.layout.views(reference), None, examples, np.arange(len(examples)), training=True)
        (loss.total / loss.targets).backward()
        torch.nn.utils.clip_grad_norm_([reference], settings.clip_norm)
        adam.step()
        torch.testing.assert_close(row, reference.detach(), rtol=1e-4, atol=1e-5)
    assert int(moments["step"]) == 3
    assert (row - fresh).abs().max() > 1e-3, "otherwise nothing was tested"
