"""The contract of every registered strategy, and the closed forms of each."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pplr.federation.strategies import STRATEGIES, Cohort, FedAvg, Local, Pplr, QFedAvg

EACH = pytest.mark.parametrize("strategy", [cls() for cls in STRATEGIES.values()], ids=list(STRATEGIES))
OPTIONS = [
    QFedAvg(q=3, lipschitz=0.5),
    Pplr(similarity="none"),
    Pplr(temperature=0.05),
    Pplr(temperature=20, by_size=True),
    Pplr(speed=False, self_weight=0.6),
]
WITH_MATRIX = pytest.mark.parametrize(
    "strategy", [*(cls() for name, cls in STRATEGIES.items() if name != "robust"), *OPTIONS], ids=repr
)
"""All strategies that have a matrix, and some with other values than their defaults."""
EXCHANGING = pytest.mark.parametrize(
    "strategy",
    [
        *(cls() for name, cls in STRATEGIES.items() if cls.exchanges and name != "robust"),
        Pplr(tau=0.05, similarity="parameters"),
        *OPTIONS,
    ],
    ids=repr,
)


def cohort_of(seed, count, t=3, *, absent=0):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(count, 6))
    present = np.ones(count, bool)
    present[rng.permutation(count)[:absent]] = False
    losses = np.where(present, rng.uniform(0.1, 8, count), np.nan)
    return Cohort(t, present, rng.integers(1, 500, count).astype(float), losses, vectors @ vectors.T)


def permuted(cohort, order):
    return Cohort(
        cohort.round,
        cohort.present[order],
        cohort.sizes[order],
        cohort.losses[order],
        cohort.gram[np.ix_(order, order)],
    )


COHORTS = st.builds(
    lambda seed, count, t, absent: cohort_of(seed, count, t, absent=min(absent, count - 1)),
    st.integers(0, 2**31),
    st.integers(1, 8),
    st.integers(1, 10_000),
    st.integers(0, 7),
)


@WITH_MATRIX
@given(COHORTS)
def test_rows_are_shares(strategy, cohort):
    matrix = strategy.mixing(cohort).matrix
    assert matrix.shape == (len(cohort.sizes),) * 2
    assert (matrix >= 0).all()
    np.testing.assert_allclose(matrix.sum(1), 1, rtol=1e-12)


@WITH_MATRIX
@given(COHORTS, st.randoms(use_true_random=False))
def test_permuting_the_clients_permutes_the_matrix(strategy, cohort, random):
    order = np.array(random.sample(range(len(cohort.sizes)), len(cohort.sizes)))
    expected = strategy.mixing(cohort).matrix[np.ix_(order, order)]
    np.testing.assert_allclose(strategy.mixing(permuted(cohort, order)).matrix, expected, rtol=1e-9, atol=1e-15)


@WITH_MATRIX
@given(COHORTS)
def test_an_absent_client_is_not_read_by_others(strategy, cohort):
    matrix = strategy.mixing(cohort).matrix
    for absent in np.flatnonzero(~cohort.present):
        others = np.delete(np.arange(len(matrix)), absent)
        assert (matrix[others, absent] == 0).all()


@pytest.mark.parametrize("strategy", [Local(), Pplr(alpha=0), Pplr(self_weight=1.0)], ids=repr)
@given(COHORTS)
def test_an_absent_client_that_takes_from_nobody_keeps_its_row(strategy, cohort):
    matrix = strategy.mixing(cohort).matrix
    absent = ~cohort.present
    assert np.array_equal(matrix[absent], np.eye(len(matrix))[absent])


@pytest.mark.parametrize("strategy", [Pplr(), *(one for one in OPTIONS if isinstance(one, Pplr))], ids=repr)
@given(COHORTS)
def test_an_absent_client_takes_from_those_who_trained_and_keeps_a_part_of_its_own(strategy, cohort):
    matrix = strategy.mixing(cohort).matrix
    own = np.diag(matrix)
    assert (own[~cohort.present] > 0).all()
    if strategy.temperature >= 1:  # else what is least similar gets nothing that a float can hold
        assert (matrix[np.ix_(~cohort.present, cohort.present)] > 0).all()


@EACH
@given(COHORTS)
def test_the_details_fit_the_clients_and_are_finite(strategy, cohort):
    count = len(cohort.sizes)
    for values in strategy.mixing(cohort).details.values():
        assert values.shape in {(count,), (count, count)}
        assert np.isfinite(values).all()


@EXCHANGING
def test_equal_clients_get_equal_rows(strategy):
    vectors = np.array([[1.0, 2, -1], [1, 2, -1], [0.5, -1, 2]])
    cohort = Cohort(2, np.ones(3, bool), np.array([5.0, 5, 9]), np.array([2.0, 2, 1]), vectors @ vectors.T)
    mixed = strategy.mixing(cohort).matrix @ vectors
    np.testing.assert_allclose(mixed[0], mixed[1], rtol=1e-12)
    assert not np.array_equal(mixed[0], vectors[0])


@WITH_MATRIX
def test_a_client_alone_keeps_its_row(strategy):
    assert strategy.mixing(cohort_of(1, 1)).matrix.tolist() == [[1.0]]


@WITH_MATRIX
@pytest.mark.parametrize("t", [1, 10_000])
def test_a_thousand_clients_and_ten_thousand_rounds_do_not_overflow(strategy, t):
    with np.errstate(all="raise", under="ignore"):
        matrix = strategy.mixing(cohort_of(0, 1000, t)).matrix
    assert np.isfinite(matrix).all()
    np.testing.assert_allclose(matrix.sum(1), 1, rtol=1e-9)


@WITH_MATRIX
def test_nobody_present_changes_nothing(strategy):
    cohort = Cohort(1, np.zeros(3, bool), np.ones(3), np.full(3, np.nan), np.eye(3))
    assert np.array_equal(strategy.mixing(cohort).matrix, np.eye(3))


@given(COHORTS)
def test_fedavg_is_its_closed_form(cohort):
    total = sum(n for n, here in zip(cohort.sizes, cohort.present, strict=True) if here)
    row = [n / total if here else 0.0 for n, here in zip(cohort.sizes, cohort.present, strict=True)]
    np.testing.assert_allclose(FedAvg().mixing(cohort).matrix, [row] * len(row), rtol=1e-12)


@given(COHORTS)
def test_alpha_zero_is_local(cohort):
    assert np.array_equal(Pplr(alpha=0).mixing(cohort).matrix, np.eye(len(cohort.sizes)))


@pytest.mark.parametrize("strategy", [Local(), STRATEGIES["centralised"]()])
def test_those_that_exchange_nothing_are_the_identity(strategy):
    assert np.array_equal(strategy.mixing(cohort_of(0, 4)).matrix, np.eye(4))
    assert not strategy.exchanges


def closed_form(cohort, alpha, beta, tau):
    """The formulas of docs/strategies.md, term by term, with fifty digits."""
    with mpmath.workdps(50):
        here = [i for i in range(len(cohort.sizes)) if cohort.present[i]]
        exponentials = {i: mpmath.exp(mpmath.mpf(cohort.losses[i]) / tau) for i in here}
        shares = {i: exponentials[i] / sum(exponentials.values()) for i in here}
        speeds = {i: mpmath.tanh(alpha / shares[i] ** (mpmath.mpf(cohort.round) / beta)) for i in here}
        mean, matrix = sum(speeds.values()) / len(here), np.eye(len(cohort.sizes))
        for c in range(len(matrix)):
            d = {c: mpmath.mpf(1)}
            for i in here:
                cosine = mpmath.mpf(cohort.gram[c, i]) / mpmath.sqrt(
                    mpmath.mpf(cohort.gram[c, c]) * mpmath.mpf(cohort.gram[i, i])
                )
                d[i] = 1 if i == c else speeds.get(c, mean) * (cosine + 1) / 2
            for i, value in d.items():
                matrix[c, i] = float(value / sum(d.values()))
        return matrix, speeds


@given(
    st.integers(0, 2**31),
    st.integers(1, 5),
    st.integers(1, 200),
    st.integers(0, 3),
    st.sampled_from([0.05, 0.7, 3.0]),
    st.sampled_from([0.5, 5.0, 50.0]),
    st.sampled_from([0.05, 1.0]),
)
def test_pplr_is_its_closed_form(seed, count, t, absent, alpha, beta, tau):
    cohort = cohort_of(seed, count, t, absent=min(absent, count - 1))
    expected, speeds = closed_form(cohort, alpha, beta, tau)
    mixing = Pplr(alpha=alpha, beta=beta, tau=tau).mixing(cohort)
    np.testing.assert_allclose(mixing.matrix, expected, rtol=1e-8, atol=1e-12)
    mean = sum(speeds.values()) / len(speeds)
    for client, found in enumerate(mixing.details["learning_speed"]):
        assert found == pytest.approx(float(speeds.get(client, mean)), rel=1e-9)
    kept = Pplr(alpha=alpha, beta=beta, tau=tau, absent="keep").mixing(cohort).matrix
    assert np.array_equal(kept[~cohort.present], np.eye(count)[~cohort.present])
    assert np.array_equal(kept[cohort.present], mixing.matrix[cohort.present])


def test_nobody_takes_from_a_newcomer_that_trains_alone():
    newcomers, losses = np.array([False, False, False, True]), np.array([np.nan, np.nan, np.nan, 2.0])
    cohort = Cohort(4, newcomers, np.ones(4), losses, np.diag([0, 0, 0, 1.0]), newcomers=newcomers)
    assert np.array_equal(Pplr().mixing(cohort).matrix, np.eye(4))


def test_speed_rises_with_the_rounds_and_hard_clients_are_slower():
    losses = np.array([0.5, 1.0, 3.0])
    speeds = []
    for t in range(1, 30):
        cohort = Cohort(t, np.ones(3, bool), np.ones(3), losses, np.eye(3))
        speeds.append(Pplr(alpha=0.2, beta=9).mixing(cohort).details["learning_speed"])
        assert (np.diff(speeds[-1]) < 0).all() or (speeds[-1][:2] == 1).any()
    assert (np.diff(np.stack(speeds), axis=0) >= 0).all()
    assert (np.diff(np.stack(speeds)[:, 2]) > 0).all()
    assert speeds[-1][0] > 0.99


def test_similarity_ends():
    vectors = np.array([[1.0, 0], [2, 0], [-3, 0], [0, 1], [0, 0]])
    cohort = Cohort(1, np.ones(5, bool), np.ones(5), np.ones(5), vectors @ vectors.T)
    similarity = Pplr().mixing(cohort).details["similarity"]
    np.testing.assert_allclose(similarity[0], [1, 1, 0, 0.5, 0.5], atol=1e-12)
    assert Pplr().mixing(cohort).matrix[0, 2] == 0


def test_the_gram_matrix_is_asked_for_and_needed():
    assert (Pplr().similarity_of, Pplr(similarity="parameters").similarity_of) == ("updates", "parameters")
    assert (FedAvg().similarity_of, Local().similarity_of) == (None, None)
    with pytest.raises(ValueError, match="Gram"):
        Pplr().mixing(Cohort(1, np.ones(2, bool), np.ones(2), np.ones(2)))


@pytest.mark.parametrize("wrong", [{"alpha": -1}, {"beta": 0}, {"tau": 0}, {"similarity": "x"}, {"gamma": 1}])
def test_values_out_of_range_are_refused(wrong):
    with pytest.raises(ValidationError):
        Pplr(**wrong)
