"""Federated matrix factorisation against `implicit` alone, against the closed form, and against its own promises."""

from __future__ import annotations

import numpy as np
import pytest
from implicit.cpu.als import AlternatingLeastSquares
from scipy.sparse import csr_matrix

from pplr.data.dataset import Catalogue, Dataset, Part, Queries, Ragged
from pplr.evaluation.baselines import REFERENCES
from pplr.evaluation.baselines import federated_mf as module
from pplr.evaluation.baselines.federated_mf import FederatedMf, Penalties, federated_round
from pplr.evaluation.evaluate import evaluate

ITEMS, USERS, TASTES = 24, 60, 4
PENALTIES = Penalties(regularization=0.7, confidence=5.0)


def dataset_of(seed: int, shuffled: str | None = None) -> Dataset:
    """Users choose items of their taste (user % 4) mostly; the last event is the test, the one before validation.

    With `shuffled` = "test" the test items are others; nothing else changes.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(USERS):
        own = np.arange(user % TASTES, ITEMS, TASTES)
        rows.append(np.concatenate([rng.permutation(own), rng.integers(0, ITEMS, 2)])[-8:])
        rows[-1][-2:] = rng.choice(own, 2)
    parts = np.tile(np.r_[np.full(6, Part.TRAIN), Part.VALIDATION, Part.TEST], USERS).astype(np.int8)
    items = Ragged.from_rows(rows)
    if shuffled == "test":
        values = items.values.copy()
        values[parts == Part.TEST] = rng.permutation(values[parts == Part.TEST])
        items = Ragged(values, items.offsets)
    catalogue = Catalogue(tuple(f"i{i}" for i in range(ITEMS)), tuple("t" for _ in range(ITEMS)))
    return Dataset(catalogue, tuple(f"u{u}" for u in range(USERS)), items, parts)


def training_counts(dataset: Dataset, users: np.ndarray | None = None) -> np.ndarray:
    training = dataset.training()
    counts = np.zeros((len(training), ITEMS))
    for user, row in enumerate(training):
        np.add.at(counts[user], row, 1.0)
    return counts if users is None else counts[users]


def solved(counts: np.ndarray, others: np.ndarray) -> np.ndarray:
    """argmin over x_u of sum_i c_ui (p_ui - x_u y_i)^2 + lambda |x_u|^2, with c = 1 for what did not happen."""
    rows = []
    for row in counts:
        confidence = np.where(row > 0, PENALTIES.confidence * row, 1.0)
        left = others.T @ (confidence[:, None] * others) + PENALTIES.regularization * np.eye(others.shape[1])
        rows.append(np.linalg.solve(left, others.T @ (confidence * (row > 0))))
    return np.array(rows)


def test_one_client_is_the_plain_alternating_least_squares_of_implicit():
    counts = csr_matrix(training_counts(dataset_of(1)), dtype=np.float32)
    start = np.random.default_rng(0).random((ITEMS, 6)) * 0.01
    plain = AlternatingLeastSquares(
        6, PENALTIES.regularization, PENALTIES.confidence, dtype=np.float64, use_cg=False, iterations=5, num_threads=1
    )
    plain.item_factors = start.copy()
    plain.fit(counts, show_progress=False)
    factors = start
    for _ in range(5):
        factors = federated_round([counts], factors, PENALTIES)
    np.testing.assert_allclose(factors, plain.item_factors, rtol=1e-9)


def test_a_round_is_the_mean_of_what_the_clients_solve_weighted_by_their_events():
    counts = training_counts(dataset_of(2))
    parts = [counts[:10], counts[10:45], np.zeros((0, ITEMS)), counts[45:]]
    start = np.random.default_rng(3).random((ITEMS, 5))
    expected = np.zeros_like(start)
    for part in parts:
        users = solved(part, start) if len(part) else np.zeros((0, 5))
        expected += part.sum() / counts.sum() * solved(part.T, users)
    found = federated_round([csr_matrix(part, dtype=np.float32) for part in parts], start, PENALTIES)
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-12)


def test_scores_are_those_of_the_user_vector_solved_from_the_history():
    dataset = dataset_of(4)
    factors = np.random.default_rng(5).normal(size=(ITEMS, 6))
    queries = dataset.queries(Part.TEST)
    histories = np.zeros((len(queries), ITEMS))
    for row, history in enumerate(queries.histories):
        np.add.at(histories[row], history, 1.0)
    scores = FederatedMf(factors, PENALTIES).scores(queries).numpy()
    np.testing.assert_allclose(scores, solved(histories, factors) @ factors.T, rtol=1e-8, atol=1e-12)
    nobody = Queries(np.array([0]), Ragged.from_rows([[]]), Ragged.from_rows([[]]))
    assert not FederatedMf(factors, PENALTIES).scores(nobody).any()


def test_neither_the_order_nor_the_names_of_clients_matter():
    dataset = dataset_of(6)
    owners = np.random.default_rng(7).integers(0, 3, USERS)
    one = FederatedMf.fit(dataset, owners, seed=1)
    other = FederatedMf.fit(dataset, np.array([9, 4, 7])[owners], seed=1)
    assert (one.penalties, one.rounds) == (other.penalties, other.rounds)
    np.testing.assert_allclose(one.factors, other.factors, rtol=1e-7, atol=1e-12)


def test_test_events_change_nothing_and_the_seed_does():
    owners = np.arange(USERS) // 12
    first = FederatedMf.fit(dataset_of(8), owners, seed=1)
    again = FederatedMf.fit(dataset_of(8, shuffled="test"), owners, seed=1)
    assert (first.penalties, first.rounds) == (again.penalties, again.rounds)
    np.testing.assert_array_equal(first.factors, again.factors)
    assert not np.array_equal(first.factors, FederatedMf.fit(dataset_of(8), owners, seed=2).factors)


def test_penalties_and_rounds_are_the_best_on_validation_queries(monkeypatch):
    dataset, owners = dataset_of(9), np.arange(USERS) // 20
    monkeypatch.setattr(module, "ROUNDS", 6)
    monkeypatch.setattr(module, "PATIENCE", 6)
    candidates = [Penalties(1.0, 5.0), Penalties(50.0, 2.0)]
    chosen = FederatedMf.fit(dataset, owners, 3, candidates)
    queries = dataset.queries(Part.VALIDATION)
    found = {}
    for penalties in candidates:
        factors = module.numpy_generator(3, "federated_mf").random((ITEMS, module.FACTORS)) * 0.01
        for rounds in range(1, 7):
            parts = [
                csr_matrix(training_counts(dataset, np.flatnonzero(owners == c)), dtype=np.float32) for c in range(3)
            ]
            factors = federated_round(parts, factors, penalties)
            found[penalties, rounds] = evaluate(FederatedMf(factors, penalties), queries, ITEMS).overall()["ndcg@10"]
    assert found[chosen.penalties, chosen.rounds] == pytest.approx(max(found.values()), abs=1e-12)


def test_it_learns_tastes_across_clients_that_no_count_tells():
    dataset, owners = dataset_of(10), np.arange(USERS) % 5
    queries = dataset.queries(Part.TEST)
    model = REFERENCES["federated_mf"](dataset, owners, 1)
    chance = 10 / (ITEMS - 5)
    assert evaluate(model, queries, ITEMS, mask_history=False).overall()["recall@10"] > chance + 0.3


def test_without_validation_events_it_is_the_first_candidate_after_all_rounds(monkeypatch):
    monkeypatch.setattr(module, "ROUNDS", 2)
    dataset = dataset_of(11)
    parts = np.where(dataset.parts == Part.VALIDATION, Part.TRAIN, dataset.parts).astype(np.int8)
    bare = Dataset(dataset.catalogue, dataset.user_ids, dataset.items, parts)
    model = FederatedMf.fit(bare, np.zeros(USERS, np.int64), 1)
    assert (model.penalties, model.rounds) == (module.CANDIDATES[0], 2)
