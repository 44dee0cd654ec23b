"""The contract of every strategy, as what it does to rows: with a matrix or without."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from row_cohorts import LAYOUT, cohort_of, combined, layout_of, round_of, shared_of

from pplr.errors import CheckpointError
from pplr.federation.strategies import (
    STRATEGIES,
    FedAdam,
    FedAvg,
    FedPer,
    FedProx,
    Local,
    Pplr,
    Product,
    QFedAvg,
    Robust,
)
from pplr.models import bank

OPTIONS = [
    Robust(method="trimmed_mean", trim=0.3),
    QFedAvg(q=2, lipschitz=0.4),
    Pplr(products=True),
    Pplr(temperature=0.1, by_size=True, self_weight=0.4),
    FedPer(layers=0, names=("bias", "*.0.*")),
]
EACH = pytest.mark.parametrize("strategy", [*(cls() for cls in STRATEGIES.values()), *OPTIONS], ids=repr)
ROUNDS = st.builds(
    lambda seed, count, number, absent: round_of(seed, count, absent=min(absent, count - 1), number=number),
    st.integers(0, 2**31),
    st.integers(1, 7),
    st.integers(1, 50),
    st.integers(0, 6),
)
ONE_MODEL = [cls() for name, cls in STRATEGIES.items() if name not in {"pplr", "local", "centralised"}]


def assert_close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)


@EACH
@given(ROUNDS, st.randoms(use_true_random=False))
def test_permuting_the_clients_permutes_the_rows(strategy, given_round, random):
    one = given_round
    order = np.array(random.sample(range(len(one.sizes)), len(one.sizes)))
    other = replace(
        one, rows=one.rows[order], present=one.present[order], sizes=one.sizes[order], losses=one.losses[order]
    )
    assert_close(combined(strategy, other), combined(strategy, one)[order])


@EACH
@given(ROUNDS)
def test_what_absent_clients_hold_is_not_read_by_others(strategy, given_round):
    cohort = cohort_of(strategy, given_round)
    absent = ~given_round.present
    other = replace(given_round, rows=given_round.rows.clone())
    other.rows[absent] += 1000.0
    one, two = (combined(strategy, this, cohort=cohort) for this in (given_round, other))
    assert torch.equal(one[~absent], two[~absent])


@EACH
@given(st.integers(0, 2**31), st.integers(2, 6), st.integers(1, 40))
def test_equal_clients_stay_equal(strategy, seed, count, number):
    start = round_of(seed, count, number=number, equal=True)
    rows = combined(strategy, start)
    assert_close(rows, rows[:1].expand_as(rows))
    if isinstance(strategy, FedAdam) or strategy.whole_rows:
        return
    brought = shared_of(strategy, start.rows)
    if strategy.local_objective.own_items:  # what they have learned of an item adds up
        views, before = (layout_of(strategy).views(one) for one in (rows, shared_of(strategy, start.start)))
        steps = layout_of(strategy).views(brought)["residual"] - before["residual"]
        times = ((views["residual"] - before["residual"]) / steps)[steps != 0]
        assert not len(times) or 1 - 1e-9 <= times.min() <= times.max() <= count + 1e-9
        views["residual"].copy_(before["residual"] + steps)
    assert_close(rows, brought)


@pytest.mark.parametrize("strategy", ONE_MODEL, ids=repr)
@given(ROUNDS)
def test_those_with_one_model_give_it_to_everybody(strategy, given_round):
    rows = combined(strategy, given_round)
    if isinstance(strategy, Product) and given_round.present.sum() == 1:
        return  # the only one that trained keeps its factors, and so do the others by copies of them
    assert_close(rows, rows[:1].expand_as(rows))


@EACH
def test_nobody_present_changes_nothing(strategy):
    start = round_of(1, 3, absent=3)
    assert torch.equal(combined(strategy, start), shared_of(strategy, start.rows))


@EACH
def test_a_client_alone_is_all_there_is(strategy):
    if isinstance(strategy, FedAdam | QFedAvg) and strategy.whole_rows:
        return  # their server goes a part of the way
    one = round_of(3, 1)
    assert torch.equal(combined(strategy, one), shared_of(strategy, one.rows))


@EACH
def test_blocks_of_any_size_give_the_same(strategy, monkeypatch):
    start = round_of(5, 4, absent=1)
    expected = combined(strategy, start)
    for size in (16, 100):
        monkeypatch.setattr(bank, "BLOCK_BYTES", size)
        assert_close(combined(strategy, start), expected)


@EACH
def test_a_state_that_is_restored_goes_on_the_same(strategy):
    rounds = [round_of(seed, 4, number=seed) for seed in (1, 2, 3)]
    start = shared_of(strategy, rounds[0].start)
    straight = strategy.aggregator(layout_of(strategy), start)
    if straight is None:
        return
    for one in rounds[:2]:
        combined(strategy, one, aggregator=straight)
    kept = {name: value.clone() for name, value in straight.state().items()}
    again = strategy.aggregator(layout_of(strategy), start)
    again.restore(kept)
    assert torch.equal(*(combined(strategy, rounds[2], aggregator=one) for one in (straight, again)))
    with pytest.raises(CheckpointError, match="without --resume"):
        again.restore({"nonsense": torch.zeros(1)})


@pytest.mark.parametrize(
    ("strategy", "other"),
    [
        (FedProx(mu=0), FedAvg()),
        (FedPer(layers=0), FedAvg()),
        (QFedAvg(q=0), FedAvg()),
        (QFedAvg(q=0, lipschitz=3), FedAvg()),
        (Pplr(alpha=0, items="mean"), Local()),
        (Pplr(self_weight=1, items="mean"), Local()),
    ],
    ids=repr,
)
@given(ROUNDS)
def test_at_its_degenerate_value_a_strategy_is_the_other_one(strategy, other, given_round):
    assert layout_of(strategy).digest == layout_of(other).digest
    assert strategy.local_objective == other.local_objective
    assert torch.equal(combined(strategy, given_round), combined(other, given_round))


@given(st.integers(0, 2**31), st.integers(1, 6))
def test_pplr_without_similarity_and_speed_but_by_size_is_fedavg(seed, count):
    strategy = Pplr(similarity="none", speed=False, by_size=True, items="mean")
    one = round_of(seed, count)
    assert strategy.similarity_of is None
    assert_close(combined(strategy, one), combined(FedAvg(), one))


@given(st.integers(0, 2**31), st.integers(1, 6))
def test_an_untrimmed_mean_is_fedavg_of_equal_sizes(seed, count):
    one = replace(round_of(seed, count), sizes=np.full(count, 7.0))
    assert_close(combined(Robust(method="trimmed_mean", trim=0), one), combined(FedAvg(), one))


@given(ROUNDS)
def test_fedadam_without_memory_and_far_above_all_changes_is_fedavg(given_round):
    strategy = FedAdam(eta=1e6, tau=1e6, beta1=0, beta2=0)
    torch.testing.assert_close(combined(strategy, given_round), combined(FedAvg(), given_round), rtol=1e-5, atol=1e-5)
    still = combined(FedAdam(eta=0), given_round)
    assert torch.equal(still, given_round.start.expand_as(still))


def test_everything_private_leaves_nothing_to_mix():
    strategy = FedPer(names=("*",))
    assert combined(strategy, round_of(1, 3)).shape == (3, 0)
    assert layout_of(strategy).shared == 0
    assert layout_of(strategy).size == LAYOUT.size
