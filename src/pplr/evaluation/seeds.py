"""Is one variant better than another over several seeds? The paired bootstrap over users, of means over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np

from pplr.data.dataset import Ints
from pplr.errors import RunError
from pplr.evaluation.bootstrap import Difference, Statistic, compare, mean_over_users, resamples, worst_client
from pplr.evaluation.evaluate import UserMetrics
from pplr.evaluation.ranking import Floats


def compare_over_seeds(
    first: Sequence[UserMetrics],
    second: Sequence[UserMetrics],
    key: str,
    *,
    seed: int,
    clients: Sequence[Ints] | None = None,
    samples: int = 2000,
    level: float = 0.95,
) -> dict[str, Difference]:
    """Return the differences of one metric between two variants, each measured once per seed, as `compare` does.

    A resample draws users, and counts each as often as it was drawn under every seed: the interval is about the luck of
    the users, given these seeds. Statistics are means over seeds; "worst_client" is the mean of each seed's worst client,
    since who is a client may depend on the seed. Only where the clients are the same for all are users drawn within them.

    Args:
        first: measured by the first variant, one for each seed.
        second: the same of the second, on the same users seed by seed.
        key: the metric.
        seed: of the bootstrap.
        clients: [all users] client index of every user code, one array for each seed; None leaves the worst client out.
        samples: number of resamples.
        level: coverage of the interval.

    Raises:
        RunError: the variants have no or unequally many seeds, or were evaluated on different users.
    """
    if not first or len(first) != len(second):
        raise RunError(f"The variants have {len(first)} and {len(second)} seeds. Compare them over the same ones.")
    if len(first) == 1:
        only = None if clients is None else clients[0]
        return compare(first[0], second[0], key, seed=seed, client_of_user=only, samples=samples, level=level)
    pairs = [_known(one, other, key) for one, other in zip(first, second, strict=True)]
    users = reduce(np.union1d, [pair[0] for pair in pairs])
    places = [np.searchsorted(users, pair[0]) for pair in pairs]
    statistics: dict[str, list[Statistic]] = {"overall": [mean_over_users] * len(pairs)}
    strata = None
    if clients is not None:
        own = [of_user[pair[0]] for of_user, pair in zip(clients, pairs, strict=True)]
        statistics["worst_client"] = [worst_client(codes) for codes in own]
        if all(
            len(pair[0]) == len(users) and np.array_equal(codes, own[0]) for pair, codes in zip(pairs, own, strict=True)
        ):
            strata = own[0]
    found = {}
    for name, each in statistics.items():
        within = strata if name == "worst_client" else None
        draws = [
            _means(pairs, places, each, counts) for counts in resamples(len(users), samples, seed=seed, strata=within)
        ]
        low, high = np.quantile(np.concatenate([a - b for a, b in draws]), [(1 - level) / 2, (1 + level) / 2])
        one, other = _means(pairs, places, each, np.ones((1, len(users))))
        found[name] = Difference(float(one[0]), float(other[0]), float(low), float(high), level, len(users))
    return found


_Pair = tuple[Ints, Floats, Floats]
"""Users [n], and what both variants measured of them under one seed [n]."""


def _means(
    pairs: Sequence[_Pair], places: Sequence[Ints], statistics: Sequence[Statistic], counts: Floats
) -> tuple[Floats, Floats]:
    """Return the statistic of both variants for every resample [samples], as the mean over seeds."""
    drawn = [(counts[:, place], statistic) for place, statistic in zip(places, statistics, strict=True)]
    first = [statistic(pair[1], own) for pair, (own, statistic) in zip(pairs, drawn, strict=True)]
    second = [statistic(pair[2], own) for pair, (own, statistic) in zip(pairs, drawn, strict=True)]
    return np.mean(first, axis=0), np.mean(second, axis=0)


def _known(one: UserMetrics, other: UserMetrics, key: str) -> _Pair:
    """Return the users, in rising order, whose value is known in both, and the values."""
    mine, theirs = np.argsort(one.users), np.argsort(other.users)
    users = one.users[mine]
    if not np.array_equal(users, other.users[theirs]):
        raise RunError(
            f"The runs were evaluated on different users: {len(one)} and {len(other)}. Evaluate both with the same data, "
            "split and cleaning."
        )
    a, b = one.values[key][mine], other.values[key][theirs]
    known = ~(np.isnan(a) | np.isnan(b))
    return users[known], a[known], b[known]
