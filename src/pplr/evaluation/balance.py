"""How evenly quality is spread over the clients (docs/evaluation.md, "Balance")."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pplr.data.dataset import Ints
from pplr.errors import DataError
from pplr.evaluation.evaluate import UserMetrics


@dataclass(frozen=True)
class Balance:
    """Balance of one measure over the clients that have a value.

    Attributes:
        mean: mean over clients, each counting the same (unlike the overall mean, which is over users).
        std: standard deviation over clients (population: divided by the number of clients).
        variation: coefficient of variation, std / |mean|; 0 where all clients are equal.
        worst: value of the worst client: the lowest, or the highest of a loss.
        best: value of the best client.
        gap: |best - worst|.
        jain: Jain index, (sum x)^2 / (clients * sum x^2): 1 where all are equal, 1 / clients where one has everything.
        worst_client: name of the worst client (the first of several).
        best_client: name of the best client (the first of several).
        clients: number of clients with a value.
    """

    mean: float
    std: float
    variation: float
    worst: float
    best: float
    gap: float
    jain: float
    worst_client: str
    best_client: str
    clients: int


def balance(values: Mapping[str, float], *, higher_is_better: bool = True) -> Balance:
    """Return how evenly `values` (client name -> recall, NDCG, loss, ...) are spread.

    Clients whose value is NaN (no users to measure) are left out. Pass `higher_is_better=False` for losses. Compare
    Jain indices only of measures that are never negative.

    Raises:
        DataError: no client has a value, or one is infinite.
    """
    known = {name: value for name, value in values.items() if not np.isnan(value)}
    if not known:
        raise DataError("No client has a value to compare. Give test users to at least one client.")
    if infinite := [name for name, value in known.items() if np.isinf(value)]:
        raise DataError(f"The value of client '{infinite[0]}' is infinite. Balance needs finite values.")
    names = list(known)
    x = np.array([known[name] for name in names], dtype=np.float64)
    low, high = int(x.argmin()), int(x.argmax())
    worst, best = (low, high) if higher_is_better else (high, low)
    equal = x[low] == x[high]
    mean, std = float(x.mean()), 0.0 if equal else float(x.std())
    return Balance(
        mean=mean,
        std=std,
        variation=0.0 if equal else (std / abs(mean) if mean else float("inf")),
        worst=float(x[worst]),
        best=float(x[best]),
        gap=float(x[high] - x[low]),
        jain=1.0 if equal else float(x.sum() ** 2 / (len(x) * (x**2).sum())),
        worst_client=names[worst],
        best_client=names[best],
        clients=len(names),
    )


def per_client(metrics: UserMetrics, client_of_user: Ints, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return each client's mean of every metric over its users: client name -> metric key -> mean.

    Args:
        metrics: values of the evaluated users.
        client_of_user: [all users] the client of every user code, as an index of `names`.
        names: the clients, in their order.

    A client none of whose users was evaluated has NaN.

    Raises:
        DataError: an evaluated user belongs to no client.
    """
    clients = clients_of(metrics.users, client_of_user, len(names))
    means: dict[str, dict[str, float]] = {name: {} for name in names}
    for key, column in metrics.values.items():
        known = ~np.isnan(column)
        total = np.bincount(clients[known], weights=column[known], minlength=len(names))
        count = np.bincount(clients[known], minlength=len(names))
        mean = np.divide(total, count, out=np.full(len(names), np.nan), where=count > 0)
        for name, value in zip(names, mean.tolist(), strict=True):
            means[name][key] = value
    return means


def balances(clients: Mapping[str, Mapping[str, float]]) -> dict[str, Balance]:
    """Return the balance of every metric of `per_client`: metric key -> balance."""
    keys = next(iter(clients.values()), {})
    return {key: balance({name: values[key] for name, values in clients.items()}) for key in keys}


def clients_of(users: Ints, client_of_user: Ints, clients: int) -> Ints:
    """Return the client index of each of `users` [n]: [n], all within 0 .. clients - 1.

    Raises:
        DataError: a user belongs to no client.
    """
    inside = (users >= 0) & (users < len(client_of_user))
    found = np.where(inside, client_of_user[np.where(inside, users, 0)] if len(client_of_user) else -1, -1)
    lost = users[(found < 0) | (found >= clients)]
    if len(lost):
        raise DataError(
            f"{len(lost)} evaluated users belong to none of the {clients} clients; the first has the code {lost[0]}. "
            f"Use the clients that the run was made with."
        )
    return found.astype(np.int64)
