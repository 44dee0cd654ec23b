"""Handing out the data: the assignment of users to clients, each client's own data, and the pool of several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pplr.data.dataset import ClientData, Dataset, Ints, Part, Queries, Ragged
from pplr.errors import DataError


@dataclass(frozen=True)
class ClientAssignment:
    """Which client each user belongs to.

    Attributes:
        names: [clients] the clients' names, sorted.
        client_of_user: [users] the place of each user's client in `names`.
    """

    names: tuple[str, ...]
    client_of_user: Ints


def client_data(dataset: Dataset, assignment: ClientAssignment) -> tuple[ClientData, ...]:
    """Return [clients] what each client owns, in the order of the names; users in the order of their codes.

    The row of a user without training events is empty; the queries hold the users with a target and a history.
    """
    training = dataset.training()
    validation, test = dataset.queries(Part.VALIDATION), dataset.queries(Part.TEST)
    clients = []
    for number, name in enumerate(assignment.names):
        mine = assignment.client_of_user == number
        users = np.flatnonzero(mine).astype(np.int64)
        clients.append(
            ClientData(
                name,
                users,
                training.select(users),
                validation.select(np.flatnonzero(mine[validation.users])),
                test.select(np.flatnonzero(mine[test.users])),
            )
        )
    return tuple(clients)


def pool(clients: Sequence[ClientData], name: str) -> ClientData:
    """Return one client that owns the data of all: the centralised reference. Users in the order of their codes.

    Raises:
        DataError: there is no client, or a user belongs to two of them.
    """
    if not clients:
        raise DataError("There are no clients to pool: give one at least.")
    users = np.concatenate([client.users for client in clients])
    order = np.argsort(users, kind="stable")
    users = users[order]
    doubled = users[1:][users[1:] == users[:-1]]
    if len(doubled):
        raise DataError(f"User {doubled[0]} belongs to two of the clients that are to be pooled; each may have one.")
    training = _joined([client.training for client in clients]).select(order)
    return ClientData(
        name, users, training, _pooled(clients, lambda client: client.validation), _pooled(clients, lambda c: c.test)
    )


def _pooled(clients: Sequence[ClientData], queries_of: Callable[[ClientData], Queries]) -> Queries:
    queries = [queries_of(client) for client in clients]
    times = [one.times for one in queries if one.times is not None]
    joined = Queries(
        np.concatenate([one.users for one in queries]),
        _joined([one.histories for one in queries]),
        _joined([one.targets for one in queries]),
        np.concatenate(times) if len(times) == len(queries) else None,
    )
    return joined.select(np.argsort(joined.users, kind="stable"))


def _joined(parts: Sequence[Ragged]) -> Ragged:
    lengths = np.concatenate([part.lengths for part in parts])
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    return Ragged(np.concatenate([part.values for part in parts]), offsets)
