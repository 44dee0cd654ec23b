"""Is a difference between two runs more than the luck of the users that were drawn?

Paired bootstrap (Efron & Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13): users are drawn with
replacement, the same users for both runs, and the statistic's difference is recomputed. Intervals are percentile
intervals. A resample is a row of counts per user, so that statistics are matrix products.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from pplr.data.dataset import Ints
from pplr.errors import DataError, RunError
from pplr.evaluation.evaluate import UserMetrics
from pplr.evaluation.ranking import Floats
from pplr.seeds import numpy_generator

Statistic = Callable[[Floats, Floats], Floats]
"""(values [users], counts [samples, users]) -> the statistic of each resample [samples]."""

CHUNK_ELEMENTS = 1 << 22
"""Most counts held at once, in elements: bounds the memory of a bootstrap."""


@dataclass(frozen=True)
class Difference:
    """First run minus second run, with its percentile interval.

    Attributes:
        first: statistic of the first run.
        second: statistic of the second run.
        low: lower end of the interval of first - second.
        high: upper end of the interval of first - second.
        level: coverage that the interval aims at, such as 0.95.
        users: number of users that both runs measured.
    """

    first: float
    second: float
    low: float
    high: float
    level: float
    users: int

    @property
    def estimate(self) -> float:
        """First minus second."""
        return self.first - self.second

    @property
    def clear(self) -> bool:
        """Whether the interval lies on one side of zero."""
        return self.low > 0.0 or self.high < 0.0


def mean_over_users(values: Floats, counts: Floats) -> Floats:
    """Statistic: the mean over users."""
    return np.asarray(counts @ values / counts.sum(axis=1), dtype=np.float64)


def worst_client(clients: Ints) -> Statistic:
    """Return the statistic "mean of the worst client", for users whose client indices are `clients` [users].

    Give the same `clients` as `strata`, so that every resample has as many users of each client as there are. The
    minimum of noisy means is biased downwards in both runs alike; the bias cancels in the difference as far as the
    clients are about equally far apart in both.
    """
    members = (clients[:, None] == np.unique(clients)[None, :]).astype(np.float64)

    def statistic(values: Floats, counts: Floats) -> Floats:
        size = counts @ members
        total = counts @ (members * values[:, None])
        mean = np.divide(total, size, out=np.full(total.shape, np.inf), where=size > 0)
        return np.asarray(mean.min(axis=1), dtype=np.float64)

    return statistic


def bootstrap_difference(
    first: Floats,
    second: Floats,
    *,
    seed: int,
    statistic: Statistic = mean_over_users,
    strata: Ints | None = None,
    samples: int = 2000,
    level: float = 0.95,
) -> Difference:
    """Return the difference of a statistic between two runs over the same users, and its interval.

    Args:
        first: [users] values of the first run.
        second: [users] values of the second run, in the same order of users.
        seed: the same seed draws the same users, whatever the metric.
        statistic: what is compared; the mean over users by default.
        strata: [users] group of each user; users are drawn within their group. One group by default.
        samples: number of resamples.
        level: coverage of the interval, between 0 and 1.

    Raises:
        DataError: lengths differ, a value is not finite, or there are fewer than two users.
    """
    if first.ndim != 1 or first.shape != second.shape or len(first) < 2:
        raise DataError(
            f"The runs have {list(first.shape)} and {list(second.shape)} values. A paired bootstrap needs the same two "
            f"or more users in both."
        )
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise DataError("A user's value is not finite in one of the runs. Leave users without targets out of both.")
    draws = [
        statistic(first, counts) - statistic(second, counts)
        for counts in resamples(len(first), samples, seed=seed, strata=strata)
    ]
    low, high = np.quantile(np.concatenate(draws), [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    once = np.ones((1, len(first)))
    return Difference(
        first=float(statistic(first, once)[0]),
        second=float(statistic(second, once)[0]),
        low=float(low),
        high=float(high),
        level=level,
        users=len(first),
    )


def resamples(users: int, samples: int, *, seed: int, strata: Ints | None = None) -> Iterator[Floats]:
    """Yield blocks of resamples: how often each user is drawn, [block, users]; `samples` rows altogether.

    The draws depend on the seed, the number of users and the strata only, not on the size of the blocks.
    """
    generator = numpy_generator(seed, "bootstrap")
    group = np.zeros(users, np.int64) if strata is None else np.unique(strata, return_inverse=True)[1].reshape(-1)
    order = np.argsort(group, kind="stable")
    sizes = np.bincount(group)
    size = np.repeat(sizes, sizes)
    start = np.repeat(np.cumsum(sizes) - sizes, sizes)
    block = max(1, CHUNK_ELEMENTS // users)
    for done in range(0, samples, block):
        rows = min(block, samples - done)
        within = (generator.random((rows, users)) * size).astype(np.int64)
        drawn = order[start + np.minimum(within, size - 1)]
        flat = drawn + np.arange(rows)[:, None] * users
        yield np.bincount(flat.reshape(-1), minlength=rows * users).reshape(rows, users).astype(np.float64)


def compare(
    first: UserMetrics,
    second: UserMetrics,
    key: str,
    *,
    seed: int,
    client_of_user: Ints | None = None,
    samples: int = 2000,
    level: float = 0.95,
) -> dict[str, Difference]:
    """Return the differences of one metric between two evaluated runs.

    "overall" is the mean over users; with `client_of_user` [all users], "worst_client" is the mean of each run's worst
    client, users being drawn within clients. Users whose value is NaN in a run are left out of both.

    Raises:
        RunError: the runs lack the metric, or were evaluated on different users.
    """
    for run in (first, second):
        if key not in run.values:
            raise RunError(f"The run has no metric '{key}'. It has {', '.join(run.values)}.")
    order_first, order_second = np.argsort(first.users), np.argsort(second.users)
    users = first.users[order_first]
    if not np.array_equal(users, second.users[order_second]):
        shared = len(np.intersect1d(first.users, second.users))
        raise RunError(
            f"The runs were evaluated on different users: {len(first)} and {len(second)}, {shared} of them shared. "
            f"Evaluate both with the same data, split and cleaning."
        )
    a, b = first.values[key][order_first], second.values[key][order_second]
    known = ~(np.isnan(a) | np.isnan(b))
    a, b, users = a[known], b[known], users[known]
    found = {"overall": bootstrap_difference(a, b, seed=seed, samples=samples, level=level)}
    if client_of_user is not None:
        clients = client_of_user[users]
        found["worst_client"] = bootstrap_difference(
            a, b, seed=seed, statistic=worst_client(clients), strata=clients, samples=samples, level=level
        )
    return found
