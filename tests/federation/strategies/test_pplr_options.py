"""The options of `pplr`: each does what its description says, term by term, and none changes the published method."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pplr.federation.strategies import Cohort, Pplr

SETTINGS = st.builds(
    Pplr,
    similarity=st.sampled_from(["updates", "none"]),
    temperature=st.sampled_from([0.05, 0.5, 1.0, 4.0]),
    speed=st.booleans(),
    by_size=st.booleans(),
    self_weight=st.sampled_from([0.0, 0.3, 0.8, 1.0]),
)


def cohort_of(seed, count, absent):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(count, 4))
    present = np.ones(count, bool)
    present[rng.permutation(count)[: min(absent, count - 1)]] = False
    losses = np.where(present, rng.uniform(0.1, 8, count), np.nan)
    return Cohort(4, present, rng.integers(1, 500, count).astype(float), losses, vectors @ vectors.T)


def term_by_term(strategy, cohort):
    """What docs/strategies.md says, with fifty digits."""
    with mpmath.workdps(50):
        here = [int(i) for i in np.flatnonzero(cohort.present)]
        powers = {i: mpmath.exp(mpmath.mpf(cohort.losses[i])) for i in here}
        shares = {i: powers[i] / sum(powers.values()) for i in here}
        speeds = {i: mpmath.tanh(mpmath.mpf("0.7") / shares[i] ** (mpmath.mpf(4) / 5)) for i in here}
        matrix = np.eye(len(cohort.sizes))
        for c in range(len(matrix)):
            w = speeds.get(c, sum(speeds.values()) / len(here)) if strategy.speed else mpmath.mpf(1)
            others = [i for i in here if i != c]
            s = {
                i: (mpmath.mpf(cohort.gram[c, i]) / mpmath.sqrt(cohort.gram[c, c] * cohort.gram[i, i]) + 1) / 2
                for i in others
            }
            if strategy.similarity == "none":
                s = dict.fromkeys(others, mpmath.mpf(1))
            total, sharp = (
                sum(s.values()),
                {i: value ** (1 / mpmath.mpf(strategy.temperature)) for i, value in s.items()},
            )
            d = {i: w * total * sharp[i] / sum(sharp.values()) for i in others} | {c: mpmath.mpf(1)}
            if strategy.by_size:
                d = {i: value * cohort.sizes[i] for i, value in d.items()}
            d = {i: value / sum(d.values()) for i, value in d.items()}
            own = max(d[c], mpmath.mpf(strategy.self_weight))
            for i in d:
                matrix[c, i] = float(own if i == c else d[i] * (1 - own) / (1 - d[c]))
        return matrix


@given(SETTINGS, st.integers(0, 2**31), st.integers(1, 6), st.integers(0, 3))
def test_all_options_together_are_what_is_written(strategy, seed, count, absent):
    cohort = cohort_of(seed, count, absent)
    if strategy.similarity == "none":
        cohort = Cohort(cohort.round, cohort.present, cohort.sizes, cohort.losses, None)
        full = cohort_of(seed, count, absent)
    else:
        full = cohort
    np.testing.assert_allclose(strategy.mixing(cohort).matrix, term_by_term(strategy, full), rtol=1e-7, atol=1e-10)


def test_a_low_temperature_turns_to_the_most_similar_and_keeps_the_own_weight():
    vectors = np.array([[1.0, 0], [0.9, 0.1], [0, 1], [-1, 0.2]])
    cohort = Cohort(9, np.ones(4, bool), np.ones(4), np.ones(4), vectors @ vectors.T)
    plain, sharp, flat = (Pplr(temperature=t).mixing(cohort).matrix for t in (1.0, 0.01, 1e6))
    np.testing.assert_allclose(np.diag(sharp), np.diag(plain))
    np.testing.assert_allclose(np.diag(flat), np.diag(plain))
    assert sharp[0, 1] == pytest.approx(1 - plain[0, 0])
    np.testing.assert_allclose(flat[0, 1:], (1 - plain[0, 0]) / 3, rtol=1e-4)


def test_the_least_own_weight_binds_only_where_it_is_more():
    cohort = cohort_of(3, 5, 0)
    plain, raised = (Pplr(self_weight=own).mixing(cohort).matrix for own in (0.0, 0.4))
    assert (np.diag(plain) < 0.4).any()
    np.testing.assert_allclose(np.diag(raised), np.maximum(np.diag(plain), 0.4))
    bound = np.diag(plain) >= 0.4
    assert np.array_equal(raised[bound], plain[bound])
