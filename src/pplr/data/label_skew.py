"""Clients that differ in labels: the Dirichlet partition of Hsu, Qi and Brown (arXiv:1909.06335), over users.

There the examples of one class are dealt; here users are, because a user's events must stay together.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pplr.data.dataset import Ints, Ragged
from pplr.data.group_sizes import filled_up, least_size


def user_labels(training: Ragged, texts: Sequence[str], separator: str) -> Ints:
    """Return the label of each row of `training`: the one most typical of the user, as a number.

    Typical is the label with the largest (number of the user's events) x log(items / items with the label): a label
    that all items have says nothing. Ties go to the first in alphabetical order; -1 where no item has a label.

    Args:
        training: one row of item codes per user.
        texts: one text per item, with its labels.
        separator: what separates several labels in a text; "" takes the whole text as one.
    """
    split = [text.split(separator) if separator else [text] for text in texts]
    sets = [sorted({label.strip() for label in labels} - {""}) for labels in split]
    numbers = {label: number for number, label in enumerate(sorted(set().union(*sets)))}
    result = np.full(len(training), -1, dtype=np.int64)
    if not numbers:
        return result
    of_item = Ragged.from_rows([[numbers[label] for label in labels] for labels in sets])
    weights = np.log(len(texts) / np.bincount(of_item.values, minlength=len(numbers)))
    seen = of_item.select(training.values)
    users = np.repeat(np.repeat(np.arange(len(training)), training.lengths), seen.lengths)
    pairs, counts = np.unique(users * len(numbers) + seen.values, return_counts=True)
    owners, labels = np.divmod(pairs, len(numbers))
    order = np.lexsort((labels, -counts * weights[labels], owners))
    found, first = np.unique(owners[order], return_index=True)
    result[found] = labels[order][first]
    return result


def deal_by_dirichlet(
    labels: Ints, count: int, alpha: float, minimum_share: float, generator: np.random.Generator
) -> Ints:
    """Return the client of each user: for every label, shares p ~ Dirichlet(alpha, ..., alpha) of its users.

    Clients that are left with too few users get some at random from the largest surplus, as `filled_up` says.

    Args:
        labels: [users] label of each user, -1 for none (dealt like a label of its own).
        count: number of clients, at most the number of users.
        alpha: concentration; to 0 each label goes to one client, to infinity all clients are alike.
        minimum_share: least size of a client, as a share of users / count.
        generator: source of randomness.
    """
    clients = np.zeros(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        users = generator.permutation(np.flatnonzero(labels == label))
        shares = generator.dirichlet(np.full(count, alpha))
        places = (np.arange(len(users)) + generator.random()) / len(users)
        clients[users] = np.minimum(np.searchsorted(np.cumsum(shares), places, side="right"), count - 1)
    costs = generator.random((len(labels), count))
    return filled_up(clients, costs, least_size(len(labels), count, minimum_share))
