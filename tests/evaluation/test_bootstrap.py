"""The bootstrap against scipy, a closed form, and a simulation of its coverage."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from pplr.errors import DataError, RunError
from pplr.evaluation import bootstrap
from pplr.evaluation.bootstrap import bootstrap_difference, compare, mean_over_users, resamples, worst_client
from pplr.evaluation.evaluate import UserMetrics


def paired(seed: int, users: int, gain: float = 0.03) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    second = rng.random(users) * (rng.random(users) < 0.3)
    return np.clip(second + rng.normal(gain, 0.1, users), 0, 1), second


def test_the_interval_equals_scipys_percentile_interval() -> None:
    first, second = paired(0, 300)
    ours = bootstrap_difference(first, second, seed=1, samples=20_000)
    theirs = stats.bootstrap(
        (first, second),
        lambda a, b, axis: a.mean(axis) - b.mean(axis),
        paired=True,
        vectorized=True,
        n_resamples=20_000,
        method="percentile",
        rng=np.random.default_rng(2),
        batch=500,
    ).confidence_interval
    spread = theirs.high - theirs.low
    assert ours.low == pytest.approx(theirs.low, abs=0.03 * spread)
    assert ours.high == pytest.approx(theirs.high, abs=0.03 * spread)
    assert ours.estimate == pytest.approx(first.mean() - second.mean())
    assert ours.clear


def test_the_interval_has_the_width_of_the_normal_theory() -> None:
    first, second = paired(3, 2000)
    found = bootstrap_difference(first, second, seed=0, samples=4000)
    error = stats.sem(first - second)
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.06)


@pytest.mark.parametrize("statistic", ["overall", "worst client"])
def test_intervals_cover_the_truth_as_often_as_the_normal_theory_does(statistic: str) -> None:
    rng = np.random.default_rng(4)
    clients = np.repeat(np.arange(3), 60)
    level = np.array([0.1, 0.4, 0.5])[clients]  # the first client is the worst in both runs: its mean is the statistic
    covered, in_theory, trials = 0, 0, 250
    for trial in range(trials):
        second = level + rng.normal(0, 0.15, len(clients))
        first = second + 0.06 + rng.normal(0, 0.1, len(clients))
        worst = {} if statistic == "overall" else {"statistic": worst_client(clients), "strata": clients}
        found = bootstrap_difference(first, second, seed=trial, samples=300, level=0.9, **worst)
        covered += found.low <= 0.06 <= found.high
        gains = (first - second)[: len(clients) if statistic == "overall" else 60]
        in_theory += abs(gains.mean() - 0.06) <= 1.645 * stats.sem(gains)
    assert covered == pytest.approx(in_theory, abs=0.04 * trials)
    assert 0.83 <= covered / trials <= 0.96


def test_equal_runs_differ_by_nothing() -> None:
    first, _ = paired(5, 50)
    found = bootstrap_difference(first, first.copy(), seed=0)
    assert (found.estimate, found.low, found.high, found.clear) == (0.0, 0.0, 0.0, False)


def test_swapping_the_runs_mirrors_the_interval() -> None:
    first, second = paired(6, 80)
    one, other = (bootstrap_difference(a, b, seed=9) for a, b in ((first, second), (second, first)))
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low))


def test_resamples_draw_each_user_as_often_and_do_not_depend_on_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = np.concatenate(list(resamples(20, 3000, seed=0)))
    monkeypatch.setattr(bootstrap, "CHUNK_ELEMENTS", 150)
    np.testing.assert_array_equal(np.concatenate(list(resamples(20, 3000, seed=0))), whole)
    assert (whole.sum(axis=1) == 20).all()
    np.testing.assert_allclose(whole.mean(axis=0), 1.0, atol=0.08)
    np.testing.assert_allclose(whole.var(axis=0), 1 - 1 / 20, atol=0.15)


def test_strata_keep_their_sizes() -> None:
    strata = np.array([7, 2, 7, 7, 2, 5])
    counts = np.concatenate(list(resamples(6, 500, seed=0, strata=strata)))
    for group, size in ((7, 3), (2, 2), (5, 1)):
        assert (counts[:, strata == group].sum(axis=1) == size).all()
    assert counts[:, 0].max() == 3


def test_statistics_equal_loops_over_the_drawn_users() -> None:
    rng = np.random.default_rng(8)
    values, clients = rng.random(9), np.array([0, 0, 0, 1, 1, 1, 2, 2, 2])
    counts = np.array([[1, 0, 2, 1, 1, 1, 0, 3, 0], [0, 0, 0, 4, 0, 2, 1, 1, 1]], dtype=float)
    drawn = [np.repeat(np.arange(9), row.astype(int)) for row in counts]
    np.testing.assert_allclose(mean_over_users(values, counts), [values[each].mean() for each in drawn])
    expected = [min(values[each][clients[each] == c].mean() for c in set(clients[each])) for each in drawn]
    np.testing.assert_allclose(worst_client(clients)(values, counts), expected)


def test_runs_are_matched_by_user_not_by_order() -> None:
    first, second = np.random.default_rng(10).random((2, 40))
    clients = np.arange(60) % 3
    users = np.random.default_rng(0).permutation(60)[:40]
    a = UserMetrics(users, {"ndcg@10": first})
    shuffled = np.random.default_rng(1).permutation(40)
    b = UserMetrics(users[shuffled], {"ndcg@10": second[shuffled]})
    found = compare(a, b, "ndcg@10", seed=3, client_of_user=clients)
    assert found["overall"].estimate == pytest.approx((first - second).mean())
    means = [min(x[clients[users] == c].mean() for c in range(3)) for x in (first, second)]
    assert (found["worst_client"].first, found["worst_client"].second) == pytest.approx(tuple(means))
    assert compare(a, UserMetrics(users, {"ndcg@10": second}), "ndcg@10", seed=3, client_of_user=clients) == found
    assert set(compare(a, b, "ndcg@10", seed=3)) == {"overall"}


def test_users_without_a_value_are_left_out_of_both() -> None:
    a = UserMetrics(np.arange(4), {"x": np.array([1.0, np.nan, 0.5, 0.0])})
    b = UserMetrics(np.arange(4), {"x": np.array([0.0, 1.0, 0.5, np.nan])})
    found = compare(a, b, "x", seed=0)["overall"]
    assert (found.users, found.first, found.second) == (2, 0.75, 0.25)


def test_runs_that_cannot_be_compared_are_errors() -> None:
    a = UserMetrics(np.arange(3), {"x": np.ones(3)})
    with pytest.raises(RunError, match="different users: 3 and 3, 2 of them shared"):
        compare(a, UserMetrics(np.arange(1, 4), {"x": np.ones(3)}), "x", seed=0)
    with pytest.raises(RunError, match=r"no metric 'y'\. It has x"):
        compare(a, a, "y", seed=0)
    with pytest.raises(DataError, match="two"):
        bootstrap_difference(np.ones(1), np.ones(1), seed=0)
    with pytest.raises(DataError, match="not finite"):
        bootstrap_difference(np.array([1.0, np.nan]), np.ones(2), seed=0)
