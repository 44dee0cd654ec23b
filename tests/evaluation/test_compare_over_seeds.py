"""Differences between variants over several seeds: plain means, and intervals that agree with other ways to them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from pplr.errors import RunError
from pplr.evaluation import UserMetrics, compare, compare_over_seeds

KEY = "ndcg@10"


def measured(values, users=None):
    return UserMetrics(np.arange(len(values)) if users is None else users, {KEY: np.asarray(values, dtype=np.float64)})


@pytest.fixture
def drawn():
    """Three seeds of two variants on 400 users, and five clients that differ from seed to seed."""
    generator = np.random.default_rng(3)
    ease = generator.random(400)
    first = [ease + 0.1 * generator.random(400) + 0.02 for _ in range(3)]
    second = [ease + 0.1 * generator.random(400) for _ in range(3)]
    clients = [generator.integers(0, 5, 400) for _ in range(3)]
    return first, second, clients


def test_one_seed_is_the_plain_comparison(drawn):
    first, second, clients = drawn
    one = compare_over_seeds([measured(first[0])], [measured(second[0])], KEY, seed=1, clients=clients[:1], samples=200)
    plain = compare(measured(first[0]), measured(second[0]), KEY, seed=1, client_of_user=clients[0], samples=200)
    assert one == plain


def test_estimates_are_means_over_seeds_and_the_interval_agrees_with_the_t_interval_of_users_means(drawn):
    first, second, clients = drawn
    found = compare_over_seeds(
        [measured(v) for v in first], [measured(v) for v in second], KEY, seed=1, clients=clients, samples=3000
    )
    gain = np.mean(first, axis=0) - np.mean(second, axis=0)  # of each user, over seeds
    low, high = stats.t.interval(0.95, len(gain) - 1, gain.mean(), stats.sem(gain))
    overall = found["overall"]
    assert overall.estimate == pytest.approx(gain.mean())
    assert [overall.low, overall.high] == pytest.approx([low, high], abs=0.1 * (high - low))
    worst = [
        [min(values[own == client].mean() for client in range(5)) for values, own in zip(variant, clients, strict=True)]
        for variant in (first, second)
    ]
    assert found["worst_client"].first == pytest.approx(np.mean(worst[0]))
    assert found["worst_client"].estimate == pytest.approx(np.mean(worst[0]) - np.mean(worst[1]))
    assert found["worst_client"].low < found["worst_client"].estimate < found["worst_client"].high


def test_seeds_that_measured_the_same_say_no_more_than_one(drawn):
    """Three copies of one seed: the interval must not shrink, as it would if users were drawn anew for each."""
    first, second, clients = drawn
    once = compare_over_seeds([measured(first[0])], [measured(second[0])], KEY, seed=1, clients=clients[:1])
    thrice = compare_over_seeds(
        [measured(first[0])] * 3, [measured(second[0])] * 3, KEY, seed=1, clients=clients[:1] * 3
    )
    for name, difference in once.items():
        assert [thrice[name].low, thrice[name].high] == pytest.approx([difference.low, difference.high])


def test_seeds_may_have_sampled_different_users_and_the_order_of_users_does_not_matter(drawn):
    first, second, _ = drawn
    parts = [np.arange(0, 300), np.arange(100, 400)]
    orders = [parts[0][::-1], np.roll(parts[1], 7)]
    mine = [measured(first[s][order], order) for s, order in enumerate(orders)]
    theirs = [measured(second[s][part], part) for s, part in enumerate(parts)]
    found = compare_over_seeds(mine, theirs, KEY, seed=1, samples=50)["overall"]
    expected = np.mean([first[s][part].mean() - second[s][part].mean() for s, part in enumerate(parts)])
    assert found.estimate == pytest.approx(expected)
    assert found.users == 400


def test_what_cannot_be_paired_is_refused(drawn):
    first, second, _ = drawn
    with pytest.raises(RunError, match="3 and 2 seeds"):
        compare_over_seeds([measured(v) for v in first], [measured(v) for v in second[:2]], KEY, seed=1)
    with pytest.raises(RunError, match="different users"):
        compare_over_seeds([measured(v) for v in first], [measured(v[:-1]) for v in second], KEY, seed=1)
