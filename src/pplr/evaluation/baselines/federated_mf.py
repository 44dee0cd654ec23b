"""Federated matrix factorisation: what ids alone give when item factors are shared and user factors are not.

Both sides of the factors by alternating least squares for implicit feedback (Hu, Koren and Volinsky, "Collaborative
Filtering for Implicit Feedback Datasets", ICDM 2008), as the library `implicit` solves it. Who holds what is that of
Ammad-ud-din et al., "Federated Collaborative Filtering for Privacy-Preserving Personalized Recommendation System",
arXiv:1901.09888: user factors stay where the user's events are, item factors travel. A client is a silo with many users,
and item factors are combined by federated averaging (McMahan et al., arXiv:1602.05629, Algorithm 1).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_matrix
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from pplr.data.dataset import Dataset, Ints, Queries, Ragged
from pplr.evaluation.baselines.selection import SELECTION_KEY, selection_queries
from pplr.evaluation.baselines.sparse_rows import row_of_each, sparse_counts
from pplr.evaluation.evaluate import evaluate
from pplr.evaluation.ranking import Floats
from pplr.seeds import numpy_generator

FACTORS = 32
"""Length of the vectors of users and items."""

ROUNDS = 30
"""Most rounds that are tried."""

PATIENCE = 3
"""Rounds without a better validation score after which a candidate is given up."""


class Penalties(NamedTuple):
    """What the squared error is weighted with.

    Attributes:
        regularization: weight of the vectors' squared lengths.
        confidence: weight of an event; that of a missing one is 1.
    """

    regularization: float
    confidence: float


CANDIDATES = tuple(Penalties(*pair) for pair in itertools.product((10.0, 30.0, 100.0, 300.0), (5.0, 20.0)))
"""What is chosen from on validation queries."""


class FederatedMf:
    """Scores an item by the product of its shared vector with the user's, which is solved from the user's history.

    Attributes:
        factors: [items, FACTORS] the shared vectors.
        penalties: those they were found with.
        rounds: number of averagings.
    """

    def __init__(self, factors: Floats, penalties: Penalties, rounds: int = 0) -> None:
        self.factors = factors
        self.penalties = penalties
        self.rounds = rounds
        self._model = _solver(penalties, factors)

    @staticmethod
    def fit(
        dataset: Dataset, client_of_user: Ints, seed: int, candidates: Sequence[Penalties] = CANDIDATES
    ) -> FederatedMf:
        """Return the model that is best on validation queries (NDCG@10, the first of equals), over candidates and rounds.

        Without validation queries it is the first candidate after ROUNDS rounds.

        Args:
            dataset: each client learns from its users' training events.
            client_of_user: [users] the client of each user code; clients may have any numbers.
            seed: of the item factors before the first round.
            candidates: the penalties to choose from.
        """
        items = len(dataset.catalogue)
        training = dataset.training()
        clients = [
            _counts(training.select(np.flatnonzero(client_of_user == client).astype(np.int64)), items)
            for client in np.unique(client_of_user)
        ]
        start = numpy_generator(seed, "federated_mf").random((items, FACTORS)) * 0.01
        queries = selection_queries(dataset)
        with threadpool_limits(1):  # the same numbers on every machine
            if not len(queries):
                *_, last = _rounds(clients, start, candidates[0])
                return last
            found = [_best_round(_rounds(clients, start, penalties), queries) for penalties in candidates]
        return max(found, key=lambda scored: scored[0])[1]

    def scores(self, queries: Queries) -> torch.Tensor:
        """Return the scores [len(queries), items], float64; all 0 where a history is empty."""
        with threadpool_limits(1):
            counts = _counts(queries.histories, len(self.factors))
            users = self._model.recalculate_user(np.arange(len(queries)), counts)
        return torch.from_numpy(np.asarray(users @ self.factors.T, dtype=np.float64))


def federated_round(clients: Sequence[Any], factors: Floats, penalties: Penalties) -> Floats:
    """Return the item factors [items, factors] after one round.

    Each client solves its users' factors from the shared item factors, and from them item factors of its own; the
    coordinator takes the mean of these, weighted by the clients' numbers of events. With one client it is a step of
    alternating least squares.

    Args:
        clients: sparse counts [users, items] of each.
        factors: [items, factors] as all clients received them.
        penalties: of the squared error.
    """
    sizes = np.array([counts.sum() for counts in clients], dtype=np.float64)
    mean = np.zeros_like(factors)
    for counts, share in zip(clients, sizes / max(sizes.sum(), 1.0), strict=True):
        if share:
            model = _solver(penalties, factors.copy())
            model.fit(counts, show_progress=False)
            mean += share * model.item_factors
    return mean


def _rounds(clients: Sequence[Any], start: Floats, penalties: Penalties) -> Iterator[FederatedMf]:
    """Yield the model after each round."""
    factors = start
    for done in range(1, ROUNDS + 1):
        factors = federated_round(clients, factors, penalties)
        yield FederatedMf(factors, penalties, done)


def _best_round(models: Iterator[FederatedMf], queries: Queries) -> tuple[float, FederatedMf]:
    """Return the best score and its model, of those before PATIENCE rounds without a better one."""
    best, chosen = -np.inf, next(models)
    for model in itertools.chain([chosen], models):
        score = evaluate(model, queries, len(model.factors), (10,)).overall()[SELECTION_KEY]
        if score > best:
            best, chosen = score, model
        elif model.rounds >= chosen.rounds + PATIENCE:
            break
    return best, chosen


def _solver(penalties: Penalties, factors: Floats) -> Any:
    """Return `implicit`'s model with these item factors, one exact step a fit: users first, then items, one thread."""
    from implicit.cpu.als import AlternatingLeastSquares

    model = AlternatingLeastSquares(
        factors=factors.shape[1],
        regularization=penalties.regularization,
        alpha=penalties.confidence,
        use_cg=False,
        iterations=1,
        num_threads=1,
        dtype=np.float64,
    )
    model.item_factors = factors
    return model


def _counts(rows: Ragged, items: int) -> Any:
    """Return how often each row has each item: sparse [rows, items], float32, as `implicit` takes it."""
    ones = np.ones(len(rows.values))
    return csr_matrix(sparse_counts(row_of_each(rows), rows.values, ones, (len(rows), items)), dtype=np.float32)
