"""What the evaluation asks of a recommender: one score per user and item."""

from __future__ import annotations

from typing import Protocol

import torch

from pplr.data.dataset import Queries


class Scorer(Protocol):
    """Anything that scores the whole catalogue for a batch of users: a trained model or a simple baseline."""

    def scores(self, queries: Queries) -> torch.Tensor:
        """Return scores [len(queries), items], floating point and finite; higher is better.

        The score of a user may depend on that user's row of `users`, `histories` and `times` only, never on
        `targets` (the evaluation empties them) or on the other rows of the batch. The tensor may be a view: nobody
        writes to it.
        """
        ...


def scorer_name(scorer: Scorer) -> str:
    """Return the name by which messages call `scorer`: its class."""
    return type(scorer).__name__
