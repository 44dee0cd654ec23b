"""`strategy.clip`: however far a client's row is, it moves another only so far; also one that has not been there yet."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pplr.federation.strategies import Cohort, Pplr


def cohort_of(rows, absent=(), newcomers=()):
    """What the coordinator would say of these rows [clients, P]."""
    rng, count = np.random.default_rng(0), len(rows)
    present = np.array([place not in absent for place in range(count)])
    losses = np.where(present, rng.uniform(0.5, 2, count), np.nan)
    distances = np.linalg.norm(rows[:, None] - rows[None], axis=-1)
    new = np.array([place in newcomers for place in range(count)])
    return Cohort(3, present, np.full(count, 5.0), losses, rows @ rows.T, distances, new)


def rows_of(seed, count):
    return np.random.default_rng(seed).normal(size=(count, 6))


@given(seed=st.integers(0, 2**31), count=st.integers(2, 8), clip=st.floats(0.1, 5), absent=st.integers(0, 3))
def test_what_is_taken_is_bounded_by_the_median_of_distances(seed, count, clip, absent):
    cohort = cohort_of(rows_of(seed, count), absent=range(min(absent, count - 1)))
    plain = Pplr(items="mean").mixing(replace(cohort, newcomers=None)).matrix
    found = Pplr(items="mean", clip=clip).mixing(cohort).matrix
    there = np.flatnonzero(cohort.present)
    for i in range(count):
        others = [j for j in there if j != i]
        if not others:
            assert found[i, i] == 1
            continue
        reach = clip * np.median([cohort.distances[i, j] for j in others])
        for j in others:
            assert found[i, j] == pytest.approx(plain[i, j] * min(1, reach / cohort.distances[i, j]))
    np.testing.assert_allclose(found.sum(1), 1)
    assert (found >= 0).all()


@pytest.mark.parametrize("far", [10.0, 1e6])
@pytest.mark.parametrize("trained", [False, True], ids=["not there yet", "in its first round"])
def test_a_client_that_lies_moves_nobody_far_and_no_newcomer(far, trained):
    honest = rows_of(1, 6)
    rows = honest.copy()
    rows[0] = far
    new = 5
    cohort = cohort_of(rows, absent=() if trained else (new,), newcomers=(new,))
    among = honest[1:5]
    spread = np.linalg.norm(among - among.mean(0), axis=1).max()
    robust = Pplr(items="mean", clip=1.0).mixing(cohort).matrix @ rows
    plain = Pplr(items="mean").mixing(cohort).matrix @ rows
    if far > 100:
        assert np.linalg.norm(plain[new] - among.mean(0)) > 1e4 * spread
    for place in (1, 2, 3, 4, new):
        assert np.linalg.norm(robust[place] - among.mean(0)) < 3 * spread


def test_of_two_who_give_to_a_newcomer_neither_is_the_far_one():
    cohort = cohort_of(rows_of(2, 3), absent=(2,), newcomers=(2,))
    assert Pplr(items="mean", clip=1.0).mixing(cohort).matrix[2].tolist() == pytest.approx([0.5, 0.5, 0])


def test_where_most_rows_are_one_a_newcomer_gets_it():
    rows = rows_of(3, 6)
    rows[1:5] = rows[1]
    found = Pplr(items="mean", clip=1.0).mixing(cohort_of(rows, absent=(5,), newcomers=(5,))).matrix[5]
    assert found.tolist() == pytest.approx([0, 0.25, 0.25, 0.25, 0.25, 0])
