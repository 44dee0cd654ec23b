"""Ranking against a brute force that places every item one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pplr.data.dataset import Queries, Ragged
from pplr.errors import DataError, NumericalError
from pplr.evaluation.ranking import rank_targets, row_chunks, top_items


class Table:
    """Scores written down: row u belongs to user u."""

    def __init__(self, table: np.ndarray) -> None:
        self.table = torch.from_numpy(np.asarray(table))
        self.seen: list[Queries] = []

    def scores(self, queries: Queries) -> torch.Tensor:
        self.seen.append(queries)
        return self.table[torch.from_numpy(queries.users)]


def queries_of(histories: list[list[int]], targets: list[list[int]]) -> Queries:
    return Queries(np.arange(len(histories)), Ragged.from_rows(histories), Ragged.from_rows(targets))


def brute_force(table: np.ndarray, queries: Queries, mask: bool) -> dict[tuple[int, int], float]:
    """Expected rank of each distinct target, item by item, straight from the definition."""
    found = {}
    for row in range(len(queries)):
        banned = set(queries.histories[row].tolist()) if mask else set()
        for target in set(queries.targets[row].tolist()):
            rank = 1.0
            for item in range(table.shape[1]):
                if item == target or item in banned:
                    continue
                rank += 1.0 if table[row, item] > table[row, target] else 0.0
                rank += 0.5 if table[row, item] == table[row, target] else 0.0
            found[row, target] = float("inf") if target in banned else rank
    return found


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray, Queries]:
    users, items = draw(st.integers(1, 7)), draw(st.integers(1, 9))
    seed = draw(st.integers(0, 10**6))
    rng = np.random.default_rng(seed)
    table = rng.integers(0, draw(st.sampled_from([1, 2, 4, 1000])), (users, items)).astype(np.float32)
    rows = [[rng.integers(0, items, rng.integers(0, 8)).tolist() for _ in range(users)] for _ in range(2)]
    return table, queries_of(*rows)


@settings(max_examples=60, deadline=None)
@given(case=cases(), mask=st.booleans(), batch=st.integers(1, 8))
def test_expected_ranks_equal_brute_force(case: tuple[np.ndarray, Queries], mask: bool, batch: int) -> None:
    table, queries = case
    ranks = rank_targets(Table(table), queries, table.shape[1], mask_history=mask, batch=batch)
    found = dict(zip(zip(ranks.rows.tolist(), ranks.items.tolist(), strict=True), ranks.expected.tolist(), strict=True))
    assert found == brute_force(table, queries, mask)
    assert len(ranks.rows) == len(found)
    assert ranks.queries == len(queries)


def test_memory_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    table = rng.integers(0, 5, (12, 40)).astype(np.float32)
    targets = [rng.integers(0, 40, 30).tolist() for _ in range(12)]
    queries = queries_of([rng.integers(0, 40, 6).tolist() for _ in range(12)], targets)
    whole = rank_targets(Table(table), queries, 40)
    monkeypatch.setattr(row_chunks, "__defaults__", (90,))
    pieces = rank_targets(Table(table), queries, 40)
    np.testing.assert_array_equal(whole.higher, pieces.higher)
    np.testing.assert_array_equal(whole.tied, pieces.tied)
    np.testing.assert_array_equal(whole.rows, pieces.rows)


def test_chunks_cover_all_rows_and_respect_the_bound() -> None:
    slices = list(row_chunks(10, 7, elements=21))
    assert [list(range(10))[each] for each in slices] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]
    assert len(list(row_chunks(4, 1000, elements=10))) == 4
    assert list(row_chunks(0, 5)) == []


def test_a_target_in_the_masked_history_is_unreachable() -> None:
    table = np.array([[9.0, 1.0, 5.0]])
    queries = queries_of([[0]], [[0, 2]])
    assert rank_targets(Table(table), queries, 3).expected.tolist() == [float("inf"), 1.0]
    assert rank_targets(Table(table), queries, 3, mask_history=False).expected.tolist() == [1.0, 2.0]


def test_the_scorer_sees_no_targets_and_at_most_a_batch() -> None:
    scorer = Table(np.random.default_rng(0).random((5, 4)))
    queries = Queries(np.arange(5), Ragged.from_rows([[0]] * 5), Ragged.from_rows([[1, 2]] * 5), np.arange(5) * 10)
    rank_targets(scorer, queries, 4, batch=2)
    assert [len(seen) for seen in scorer.seen] == [2, 2, 1]
    assert all(len(seen.targets.values) == 0 and len(seen.targets) == len(seen) for seen in scorer.seen)
    assert [seen.times.tolist() for seen in scorer.seen if seen.times is not None] == [[0, 10], [20, 30], [40]]


def test_the_scorers_own_tensor_is_not_written_to() -> None:
    row = torch.tensor([3.0, 2.0, 1.0])

    class View:
        def scores(self, queries: Queries) -> torch.Tensor:
            return row.expand(len(queries), -1)

    ranks = rank_targets(View(), queries_of([[0], [1]], [[1], [2]]), 3)
    assert ranks.expected.tolist() == [1.0, 2.0]
    assert row.tolist() == [3.0, 2.0, 1.0]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("item", [0, 2])
def test_a_score_that_is_not_finite_is_an_error_even_under_the_mask(bad: float, item: int) -> None:
    table = np.ones((6, 3), np.float32)
    table[4, item] = table[5, 1] = bad
    queries = queries_of([[0]] * 6, [[1]] * 6)
    with pytest.raises(NumericalError, match=rf"Table returned 2 scores.* user 4, item {item} "):
        rank_targets(Table(table), queries, 3)


def test_scores_of_the_wrong_shape_or_type_are_an_error() -> None:
    queries = queries_of([[0]] * 2, [[1]] * 2)
    with pytest.raises(NumericalError, match=r"\[2, 3\].*\[2, 5\]"):
        rank_targets(Table(np.ones((2, 3))), queries, 5)
    with pytest.raises(NumericalError, match="int64"):
        rank_targets(Table(np.ones((2, 3), np.int64)), queries, 3)


@pytest.mark.parametrize("code", [-1, 3])
def test_item_codes_outside_the_catalogue_are_an_error(code: int) -> None:
    with pytest.raises(DataError, match=rf"history holds the item code {code}"):
        rank_targets(Table(np.ones((1, 3))), queries_of([[code]], [[1]]), 3)
    with pytest.raises(DataError, match=rf"target holds the item code {code}"):
        rank_targets(Table(np.ones((1, 3))), queries_of([[0]], [[code]]), 3)


def test_no_queries_give_no_ranks() -> None:
    ranks = rank_targets(Table(np.ones((0, 3))), queries_of([], []), 3)
    assert len(ranks.rows) == len(ranks.expected) == ranks.queries == 0


@settings(max_examples=60, deadline=None)
@given(case=cases(), k=st.integers(1, 12))
def test_top_items_sorts_by_score_then_code_and_never_recommends_the_history(
    case: tuple[np.ndarray, Queries], k: int
) -> None:
    table, queries = case
    items = table.shape[1]
    found = top_items(torch.from_numpy(table), queries.histories, k).tolist()
    for row, best in enumerate(found):
        free = [item for item in range(items) if item not in queries.histories[row]]
        expected = sorted(free, key=lambda item: (-table[row, item], item))[:k]
        assert best == expected + [-1] * (min(k, items) - len(expected))


def test_top_items_of_scores_that_are_not_finite_are_an_error() -> None:
    with pytest.raises(NumericalError, match="1 of 3 scores"):
        top_items(torch.tensor([[1.0, float("nan"), 2.0]]), None, 2)
