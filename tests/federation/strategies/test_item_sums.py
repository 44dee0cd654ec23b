"""Sums over items: what clients have learned of an item adds up, and an item that a client does not have stays where it is."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

import tiny
from pplr.federation.messages import TrainTask
from pplr.federation.strategies import Cohort, Mixing, Pplr
from pplr.federation.strategies.item_sums import ItemSums
from pplr.models import bank
from pplr.models.layout import Layout, ParameterSpec, kaiming, zeros
from pplr.training import Place, train_locally

ITEMS, WIDTH = 6, 3
SPECS = [
    ParameterSpec("projection", (2, 2), kaiming),
    ParameterSpec("residual", (ITEMS, WIDTH), zeros, table=True),
    ParameterSpec("q.lora_A", (2, 4), kaiming),
    ParameterSpec("q.lora_B", (3, 2), zeros),
    ParameterSpec("offset", (ITEMS,), zeros, table=True),
]
LAYOUT = Layout(SPECS)


def trained(seed, count, absent=0):
    """Rows before and after training in double precision, and D; about half of the items are moved by a client that trains."""
    rng = np.random.default_rng(seed)
    received = torch.from_numpy(rng.normal(size=(count, LAYOUT.size)))
    rows = received + torch.from_numpy(rng.normal(size=(count, LAYOUT.size)))
    kept = torch.from_numpy(rng.random((count, ITEMS)) < 0.5)
    after, before = LAYOUT.views(rows), LAYOUT.views(received)
    for name in ("residual", "offset"):
        after[name][kept] = before[name][kept]
    present = np.ones(count, bool)
    present[rng.permutation(count)[:absent]] = False
    received[torch.from_numpy(~present)] *= 1e3  # none of the others may read it
    rows[torch.from_numpy(~present)] = received[torch.from_numpy(~present)]
    matrix = rng.random((count, count)) * (rng.random((count, count)) < 0.7) * present + np.eye(count)
    newcomer = rng.random() < 0.5 and present.sum() > 1
    if newcomer:  # its row of D has nothing of its own
        place = int(np.flatnonzero(present)[0])
        matrix[place, place] = 0
        matrix[place, np.flatnonzero(present)[1]] += 0.5
        matrix[:, place] *= np.arange(count) == place
    return received, rows, matrix / matrix.sum(1, keepdims=True), present


def cohort_of(present):
    count = len(present)
    return Cohort(1, present, np.ones(count), np.ones(count))


def item_by_item(received, rows, matrix, present, items):
    """The docstring's formula, number by number."""
    new = torch.from_numpy(matrix) @ rows
    found, before, after = LAYOUT.views(new), LAYOUT.views(received), LAYOUT.views(rows)
    for name in ("residual", "offset"):
        for c in range(len(rows)):
            for item in range(ITEMS):
                givers = [j for j in range(len(rows)) if matrix[c, j] > 0]
                those = [j for j in givers if not torch.equal(after[name][j, item], before[name][j, item])]
                value = sum(matrix[c, j] * before[name][j, item] for j in givers)
                share = sum(matrix[c, j] for j in those)
                number = share**2 / sum(matrix[c, j] ** 2 for j in those) if those else 1
                steps = [matrix[c, j] for j in givers if present[j]]
                everyone = max(sum(steps) ** 2 / sum(one**2 for one in steps), number) if steps else number
                times = {"submodel": 1, "sum": number, "rescaled": math.sqrt(number * everyone)}[items]
                for j in those:
                    value = value + times * matrix[c, j] / share * (after[name][j, item] - before[name][j, item])
                found[name][c, item] = value
    return new


@given(st.integers(0, 2**31), st.integers(1, 6), st.integers(0, 2), st.sampled_from(["submodel", "sum", "rescaled"]))
def test_sums_are_what_is_written_also_for_clients_that_did_not_train(seed, count, absent, items):
    received, rows, matrix, present = trained(seed, count, min(absent, count - 1))
    expected = item_by_item(received, rows, matrix, present, items)
    strategy = Pplr(items=items)
    strategy.aggregator(LAYOUT, received[0]).combine_(rows, Mixing(matrix), cohort_of(present), received)
    torch.testing.assert_close(rows, expected)


@pytest.mark.parametrize("trains", [1, 2, 4])
def test_an_item_that_all_who_trained_have_moves_an_absent_client_as_far_as_them(trains):
    present = np.arange(5) < trains
    cohort = Cohort(9, present, np.ones(5), np.where(present, 1.0, np.nan), np.diag(present.astype(float)))
    received = torch.zeros(5, LAYOUT.size, dtype=torch.float64)
    rows = received.clone()
    LAYOUT.views(rows)["residual"][present] = 1.0
    strategy = Pplr(speed=False)
    strategy.aggregator(LAYOUT, received[0]).combine_(rows, strategy.mixing(cohort), cohort, received)
    moved = LAYOUT.views(rows)["residual"][:, 0, 0]
    torch.testing.assert_close(moved[~present], torch.full((5 - trains,), float(trains), dtype=torch.float64))


def test_blocks_do_not_change_what_comes_out(monkeypatch):
    received, rows, matrix, present = trained(3, 4)
    again = rows.clone()
    ItemSums(LAYOUT, "sum").combine_(rows, Mixing(matrix), cohort_of(present), received)
    monkeypatch.setattr(bank, "BLOCK_BYTES", 100)
    ItemSums(LAYOUT, "sum").combine_(again, Mixing(matrix), cohort_of(present), received)
    assert torch.equal(rows, again)


def test_one_client_that_has_an_item_teaches_it_to_all_undiminished():
    received = torch.zeros(4, LAYOUT.size)
    rows = received.clone()
    LAYOUT.views(rows)["residual"][2, 5] = 1.5
    ItemSums(LAYOUT, "sum").combine_(rows, Mixing(np.full((4, 4), 0.25)), cohort_of(np.ones(4, bool)), received)
    assert LAYOUT.views(rows)["residual"][:, 5].tolist() == [[1.5] * WIDTH] * 4


def test_equal_weights_add_up_all_that_clients_have_learnt():
    received, rows, _, present = trained(8, 5)
    received[:] = received[0]
    rows = received + torch.from_numpy(np.random.default_rng(1).normal(size=rows.shape))
    sums = LAYOUT.views(received)["residual"][0] + sum(
        LAYOUT.views(rows)["residual"][c] - LAYOUT.views(received)["residual"][c] for c in range(5)
    )
    ItemSums(LAYOUT, "sum").combine_(rows, Mixing(np.full((5, 5), 0.2)), cohort_of(present), received)
    for found in LAYOUT.views(rows)["residual"]:
        torch.testing.assert_close(found, sums)


@given(st.integers(0, 2**31), st.integers(2, 6), st.floats(0, 0.999))
@example(0, 3, 1.3848383324570224e-155)
@example(0, 3, 5e-324)
def test_rescaled_steps_are_never_shorter_than_sums(seed, count, self_weight):
    _, _, matrix, _ = trained(seed, count)
    matrix = self_weight * np.eye(count) + (1 - self_weight) * matrix
    received = torch.zeros(count, LAYOUT.size, dtype=torch.float64)
    rows = received.clone()
    kept = torch.from_numpy(np.random.default_rng(seed).random((count, ITEMS)) < 0.5)
    LAYOUT.views(rows)["residual"][kept] = 1.0
    added, stretched = rows.clone(), rows.clone()
    ItemSums(LAYOUT, "sum").combine_(added, Mixing(matrix), cohort_of(np.ones(count, bool)), received)
    ItemSums(LAYOUT, "rescaled").combine_(stretched, Mixing(matrix), cohort_of(np.ones(count, bool)), received)
    assert (LAYOUT.views(stretched)["residual"] >= LAYOUT.views(added)["residual"] - 1e-9).all()


def moved_by_adam(gradients, steps, rounds):
    """How far Adam moves a number in the last of some rounds, in each of which so many of the `steps` have a gradient of 1."""
    value = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))
    adam, before = torch.optim.Adam([value], lr=1.0), 0.0
    for _ in range(rounds):
        before = float(value.detach())
        for step in range(steps):
            value.grad = torch.tensor(float(step % (steps // gradients) == 0), dtype=torch.float64)
            adam.step()
    return before - float(value.detach())


@pytest.mark.parametrize("holders", [1, 2, 5])
def test_rescaled_steps_of_few_clients_go_as_far_as_one_adam_on_all_data(holders):
    """5 clients of 100 steps a round, and an item that 10 of all 500 steps meet, at `holders` of the clients."""
    pooled = moved_by_adam(10, 500, 20)
    received = torch.zeros(5, LAYOUT.size, dtype=torch.float64)
    rows = received.clone()
    LAYOUT.views(rows)["residual"][:holders] = moved_by_adam(10 // holders, 100, 80)
    summed = rows.clone()
    for combining, found in (("rescaled", rows), ("sum", summed)):
        everyone = cohort_of(np.ones(5, bool))
        ItemSums(LAYOUT, combining).combine_(found, Mixing(np.full((5, 5), 0.2)), everyone, received)
    assert LAYOUT.views(rows)["residual"].flatten().tolist() == pytest.approx([pooled] * 5 * ITEMS * WIDTH, rel=0.02)
    shorter = float(LAYOUT.views(summed)["residual"][0, 0, 0]) / pooled
    assert shorter == pytest.approx((holders / 5) ** 0.5, rel=0.02)


@pytest.mark.parametrize("combining", ["sum", "rescaled"])
def test_who_takes_from_nobody_keeps_every_bit(combining):
    received, rows, _, present = trained(5, 3)
    rows, received = rows.float(), received.float()
    kept = rows.clone()
    ItemSums(LAYOUT, combining).combine_(rows, Mixing(np.eye(3)), cohort_of(present), received)
    assert torch.equal(rows, kept)


def test_where_nobody_has_trained_nothing_changes():
    received, rows, matrix, _ = trained(6, 3)
    kept = rows.clone()
    ItemSums(LAYOUT, "sum").combine_(rows, Mixing(matrix), cohort_of(np.zeros(3, bool)), received)
    assert torch.equal(rows, kept)


def test_products_of_adapters_and_sums_over_items_go_together():
    received, rows, matrix, present = trained(7, 4)
    both, products, sums = rows.clone(), rows.clone(), rows.clone()
    for strategy, found in (
        (Pplr(products=True, items="sum"), both),
        (Pplr(products=True, items="mean"), products),
        (Pplr(items="sum"), sums),
    ):
        aggregator = strategy.aggregator(LAYOUT, received[0])
        aggregator.combine_(found, Mixing(matrix), cohort_of(present), received)
    for name, view in LAYOUT.views(both).items():
        source = sums if name in ("residual", "offset") else products
        torch.testing.assert_close(view, LAYOUT.views(source)[name])


def test_a_layout_without_shared_tables_needs_no_sums():
    private = Layout([spec.kept() if spec.table else spec for spec in SPECS])
    assert Pplr(items="sum").aggregator(private, torch.zeros(private.shared)) is None
    assert Pplr(items="mean").aggregator(LAYOUT, torch.zeros(LAYOUT.shared)) is None


def test_sums_need_the_rows_before_training():
    _received, rows, matrix, present = trained(9, 3)
    with pytest.raises(ValueError, match="before training"):
        ItemSums(LAYOUT, "sum").combine_(rows, Mixing(matrix), cohort_of(present))


def trained_by_hand(members, rows, number, rounds, moments):
    """Whole rows [P] of clients that train the vectors of their own items only, and go on from `moments`, by client's name."""
    found = []
    for member, row in zip(members, rows, strict=True):
        name = member.info.name
        place = Place(5, name, number, (number - 1) / rounds)
        own = {"own_items": True, "moments": moments.get(name)}
        result = train_locally(member._backbone, member.row(row), member._examples, tiny.TRAINING, place, **own)
        moments[name] = result.moments
        found.append(result.row)
    return found


def test_rounds_train_own_items_and_sum_what_was_learnt_since_the_received_rows():
    coordinator, members = tiny.federation(None, strategy=Pplr(items="sum"), rounds=2)
    rows = coordinator.bank.rows.clone()
    coordinator.run()
    for member in members:
        member.private = torch.zeros_like(member.private)  # the bias, as at the start
    moments = {}
    for record in coordinator.progress.history:
        whole = trained_by_hand(members, rows, record.round, rounds=2, moments=moments)
        for member, row in zip(members, whole, strict=True):
            member.private = row[rows.shape[1] :].clone()
        trained = torch.stack([row[: rows.shape[1]] for row in whole])
        mixing, everyone = Mixing(np.array(record.mixing)), cohort_of(np.ones(len(rows), bool))
        ItemSums(members[0]._backbone.layout, "sum").combine_(trained, mixing, everyone, rows)
        rows = trained
    torch.testing.assert_close(coordinator.bank.rows, rows)


def test_at_alpha_zero_everybody_trains_own_items_alone():
    coordinator, members = tiny.federation(None, strategy=Pplr(items="sum", alpha=0), rounds=1)
    rows = coordinator.bank.rows.clone()
    whole = trained_by_hand(members, rows, 1, rounds=1, moments={})
    coordinator.run()
    assert torch.equal(coordinator.bank.rows, torch.stack([row[: rows.shape[1]] for row in whole]))


@pytest.mark.parametrize("strategy", ["pplr", "fedavg"])
def test_the_rate_of_items_is_that_of_a_run(strategy):
    training = tiny.TRAINING.model_copy(update={"item_rate": 3.0})
    coordinator, members = tiny.federation(None, strategy=strategy, rounds=1, training=training)
    rows, place = coordinator.bank.rows.clone(), Place(5, members[0].info.name, 1, 0.0)
    own = strategy == "pplr"
    expected = train_locally(
        members[0]._backbone, members[0].row(rows[0]), members[0]._examples, training, place, own_items=own
    )
    slow = train_locally(
        members[0]._backbone, members[0].row(rows[0]), members[0]._examples, tiny.TRAINING, place, own_items=own
    )
    found = members[0].train(TrainTask(members[0].info.name, 1, 0.0, rows[0])).row
    assert torch.equal(found, expected.row[: rows.shape[1]])
    assert not torch.equal(found, slow.row[: rows.shape[1]])


def test_who_keeps_nearly_to_itself_is_nearly_alone():
    received, rows, _, present = trained(5, 4)
    alone = rows.clone()
    matrix = np.full((4, 4), 1e-9) + np.eye(4) * (1 - 4e-9)
    ItemSums(LAYOUT, "sum").combine_(rows, Mixing(matrix), cohort_of(present), received)
    for name in ("residual", "offset"):
        found, before, own = (LAYOUT.views(each)[name] for each in (rows, received, alone))
        moved = own != before
        torch.testing.assert_close(found[moved], own[moved])


@pytest.mark.parametrize("weight", [1e-30, 1e-45, 1e-200])
def test_weights_beyond_single_precision_are_weights(weight):
    received = torch.zeros(3, LAYOUT.size)
    rows = received.clone()
    LAYOUT.views(rows)["residual"][2, 5] = 1.5
    matrix = np.array([[0.5, 0.5, weight], [0.5, 0.5, 0], [0, 0, 1.0]])
    ItemSums(LAYOUT, "sum").combine_(rows, Mixing(matrix), cohort_of(np.ones(3, bool)), received)
    assert rows.isfinite().all()
    found = LAYOUT.views(rows)["residual"][:, 5]
    assert found[1].tolist() == [0.0] * WIDTH
    assert found[2].tolist() == [1.5] * WIDTH


def test_sums_are_asked_for_with_any_similarity():
    coordinator, _ = tiny.federation(None, strategy=Pplr(items="sum", similarity="none"), rounds=2)
    coordinator.run()
    assert len(coordinator.progress.history) == 2


def test_ranks_are_shared_by_component_beside_sums_and_not_beside_products():
    assert ItemSums(LAYOUT, "sum").by_matrix
    assert not Pplr(products=True).aggregator(LAYOUT, torch.zeros(LAYOUT.shared)).by_matrix
