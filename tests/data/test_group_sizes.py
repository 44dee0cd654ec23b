import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pplr.data.group_sizes import filled_up, least_size


@settings(deadline=None)
@given(st.integers(1, 6), st.integers(0, 60), st.floats(0, 1), st.integers(0, 10_000))
def test_every_group_reaches_its_least_size_and_no_large_one_grows(
    groups: int, more: int, share: float, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    users = groups + more
    before = generator.integers(0, generator.integers(1, groups + 1), users)
    costs = generator.random((users, groups))
    least = least_size(users, groups, share)
    given = before.copy()
    after = filled_up(given, costs, least)
    assert given.tolist() == before.tolist()
    old, new = np.bincount(before, minlength=groups), np.bincount(after, minlength=groups)
    assert (new >= least).all()
    assert (new[old < least] == least).all()
    assert (new[old >= least] <= old[old >= least]).all()
    assert (old[after[before != after]] < least).all()


def test_the_nearest_users_move_as_long_as_their_group_can_spare_them() -> None:
    groups = np.array([0, 0, 0, 1, 1, 1, 1])
    costs = np.zeros((7, 3))
    costs[:, 2] = [0.1, 0.2, 0.3, 9, 8, 7, 6]
    # group 0 may give one user only: its nearest; the other comes from group 1
    assert filled_up(groups, costs, 2).tolist() == [2, 0, 0, 1, 1, 1, 2]
    assert groups.tolist() == [0, 0, 0, 1, 1, 1, 1]


def test_enough_users_everywhere_means_no_change() -> None:
    groups = np.array([0, 1, 2, 0])
    assert filled_up(groups, np.ones((4, 3)), 1).tolist() == groups.tolist()
