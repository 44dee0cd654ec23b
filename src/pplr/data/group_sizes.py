"""No client may be left with almost nobody: small groups take the nearest users of large ones."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pplr.data.dataset import Ints


def least_size(users: int, groups: int, minimum_share: float) -> int:
    """Return the least number of users of a group: the share of an equal part, one at least."""
    return max(1, int(minimum_share * users / groups))


def filled_up(groups: Ints, costs: NDArray[np.float64], least: int) -> Ints:
    """Return the groups after every one has `least` users.

    The rule: from the smallest group to the largest, a group that is too small takes the users that cost least to
    move to it; a group never gives so many that it falls below `least` itself. All other users stay.

    Args:
        groups: [users] group of each user.
        costs: [users, groups] cost of having each user in each group, such as the distance to its centre.
        least: least size, at most users / groups.
    """
    groups = groups.copy()
    sizes = np.bincount(groups, minlength=costs.shape[1])
    for small in np.argsort(sizes, kind="stable"):
        wanted = least - sizes[small]
        if wanted <= 0:
            continue
        order = np.argsort(costs[:, small], kind="stable")
        givers = groups[order]
        # the n-th user that a group would give may go as long as n does not exceed what the group has to spare
        turn = _rank_within(givers)
        free = (turn < np.maximum(sizes - least, 0)[givers]) & (givers != small)
        moved = order[free][:wanted]
        groups[moved] = small
        sizes = np.bincount(groups, minlength=costs.shape[1])
    return groups


def _rank_within(groups: Ints) -> Ints:
    """Return for each element how many earlier ones are of its group."""
    order = np.argsort(groups, kind="stable")
    starts = np.searchsorted(groups[order], groups[order], side="left")
    ranks = np.empty(len(groups), dtype=np.int64)
    ranks[order] = np.arange(len(groups)) - starts
    return ranks
