"""The evaluation as a whole: what must not change its values, and its file."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pplr.data.dataset import Queries, Ragged
from pplr.errors import DataError
from pplr.evaluation.evaluate import UserMetrics, evaluate


class Table:
    def __init__(self, table: np.ndarray) -> None:
        self.table = torch.from_numpy(table)

    def scores(self, queries: Queries) -> torch.Tensor:
        return self.table[torch.from_numpy(queries.users)]


def random_case(seed: int, users: int = 11, items: int = 30) -> tuple[np.ndarray, Queries]:
    rng = np.random.default_rng(seed)
    table = rng.integers(0, 12, (users, items)).astype(np.float32)
    histories = Ragged.from_rows([rng.integers(0, items, rng.integers(1, 9)) for _ in range(users)])
    targets = Ragged.from_rows([rng.integers(0, items, rng.integers(1, 6)) for _ in range(users)])
    return table, Queries(np.arange(users), histories, targets)


def same(first: UserMetrics, second: UserMetrics) -> None:
    np.testing.assert_array_equal(first.users, second.users)
    assert list(first.values) == list(second.values)
    for key, column in first.values.items():
        np.testing.assert_array_equal(column, second.values[key], err_msg=key)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), batch=st.integers(1, 12))
def test_the_batch_size_changes_nothing(seed: int, batch: int) -> None:
    table, queries = random_case(seed)
    same(evaluate(Table(table), queries, 30), evaluate(Table(table), queries, 30, batch=batch))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_renumbering_the_items_changes_nothing(seed: int) -> None:
    table, queries = random_case(seed)
    new_code = np.random.default_rng(seed + 1).permutation(30)
    histories = Ragged(new_code[queries.histories.values], queries.histories.offsets)
    targets = Ragged(new_code[queries.targets.values], queries.targets.offsets)
    renumbered = evaluate(Table(table[:, np.argsort(new_code)]), Queries(queries.users, histories, targets), 30)
    before = evaluate(Table(table), queries, 30)
    for key, column in before.values.items():
        np.testing.assert_allclose(renumbered.values[key], column, atol=1e-14)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_the_order_of_users_changes_nothing(seed: int) -> None:
    table, queries = random_case(seed)
    order = np.random.default_rng(seed + 1).permutation(len(queries))
    before, after = (evaluate(Table(table), each, 30, batch=4) for each in (queries, queries.select(order)))
    np.testing.assert_array_equal(after.users, order)
    for key, column in before.values.items():
        np.testing.assert_array_equal(after.values[key], column[order])


def test_targets_in_the_history_count_only_without_the_mask() -> None:
    queries = Queries(np.array([0]), Ragged.from_rows([[1]]), Ragged.from_rows([[1]]))
    table = np.array([[0.0, 1.0, 0.5]])
    assert evaluate(Table(table), queries, 3, (1,)).overall() == {"recall@1": 0.0, "ndcg@1": 0.0}
    assert evaluate(Table(table), queries, 3, (1,), mask_history=False).overall() == {"recall@1": 1.0, "ndcg@1": 1.0}


def test_overall_is_the_mean_over_users_with_a_value() -> None:
    metrics = UserMetrics(np.array([4, 2, 9]), {"recall@5": np.array([1.0, np.nan, 0.5]), "x": np.full(3, np.nan)})
    assert metrics.overall()["recall@5"] == 0.75
    assert np.isnan(metrics.overall()["x"])
    assert len(metrics) == 3


def test_columns_of_the_wrong_length_and_repeated_users_are_errors() -> None:
    with pytest.raises(DataError, match="'recall@5' has 2 values for 3 users"):
        UserMetrics(np.arange(3), {"recall@5": np.ones(2)})
    with pytest.raises(DataError, match="more than once"):
        UserMetrics(np.array([1, 1]), {})
