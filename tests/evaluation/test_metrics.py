"""Metrics against enumeration of all orders of tied items, and attempts to cheat them."""

from __future__ import annotations

from itertools import pairwise, permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pplr.data.dataset import Queries, Ragged
from pplr.errors import ConfigError
from pplr.evaluation.metrics import METRICS, measure, metric_key, ndcg, recall
from pplr.evaluation.ranking import Ranks, rank_targets


class Constant:
    """The same scores for everybody."""

    def __init__(self, row: list[float]) -> None:
        self.row = torch.tensor(row, dtype=torch.float64)

    def scores(self, queries: Queries) -> torch.Tensor:
        return self.row.expand(len(queries), -1)


def ranked(row: list[float], targets: list[list[int]], histories: list[list[int]] | None = None) -> Ranks:
    histories = histories or [[] for _ in targets]
    queries = Queries(np.arange(len(targets)), Ragged.from_rows(histories), Ragged.from_rows(targets))
    return rank_targets(Constant(row), queries, len(row))


def by_enumeration(row: list[float], targets: set[int], k: int) -> tuple[float, float]:
    """Mean recall and NDCG over all orders that respect the scores."""
    orders = [o for o in permutations(range(len(row))) if all(row[a] >= row[b] for a, b in pairwise(o))]
    ideal = sum(1 / np.log2(2 + place) for place in range(min(k, len(targets))))
    hits = [[place for place, item in enumerate(order[:k]) if item in targets] for order in orders]
    recalls = [len(places) / len(targets) for places in hits]
    ndcgs = [sum(1 / np.log2(2 + place) for place in places) / ideal for places in hits]
    return float(np.mean(recalls)), float(np.mean(ndcgs))


@settings(max_examples=60, deadline=None)
@given(
    row=st.lists(st.sampled_from([0.0, 1.0, 2.0]), min_size=1, max_size=6),
    k=st.integers(1, 8),
    data=st.data(),
)
def test_metrics_are_means_over_all_orders_of_tied_items(row: list[float], k: int, data: st.DataObject) -> None:
    targets = data.draw(st.sets(st.integers(0, len(row) - 1), min_size=1))
    ranks = ranked(row, [sorted(targets)])
    assert (recall(ranks, k)[0], ndcg(ranks, k)[0]) == pytest.approx(by_enumeration(row, targets, k))


def test_written_out_by_hand() -> None:
    ranks = ranked([9, 8, 7, 6, 5], [[1, 4], [0], [3]])
    assert recall(ranks, 2).tolist() == [0.5, 1.0, 0.0]
    ideal = 1 + 1 / np.log2(3)
    assert ndcg(ranks, 2).tolist() == pytest.approx([(1 / np.log2(3)) / ideal, 1.0, 0.0])
    assert ndcg(ranks, 5).tolist() == pytest.approx([(1 / np.log2(3) + 1 / np.log2(6)) / ideal, 1.0, 1 / np.log2(5)])


@pytest.mark.parametrize("items", [3, 19, 40, 500])
def test_constant_scores_are_worth_a_random_guess(items: int) -> None:
    for k in (5, 10):
        ranks = ranked([0.0] * items, [[item] for item in range(items)])
        expected = min(1.0, k / items)
        gain = sum(1 / np.log2(2 + place) for place in range(min(k, items))) / items
        assert recall(ranks, k) == pytest.approx(np.full(items, expected))
        assert ndcg(ranks, k) == pytest.approx(np.full(items, gain))


def test_rounding_scores_into_huge_ties_gains_nothing_on_average() -> None:
    rng = np.random.default_rng(1)
    fine = rng.permutation(60).astype(float)
    targets = [[item] for item in range(60)]
    for size in (2, 19, 30, 60):
        coarse = np.floor(fine / size)
        for metric in (recall, ndcg):
            exact = metric(ranked(fine.tolist(), targets), 10).mean()
            assert metric(ranked(coarse.tolist(), targets), 10).mean() == pytest.approx(exact)


def test_a_target_that_is_first_in_the_catalogue_gains_nothing_from_ties() -> None:
    first, last = ranked([1.0] * 100, [[0]]), ranked([1.0] * 100, [[99]])
    assert recall(first, 10)[0] == recall(last, 10)[0] == pytest.approx(0.1)
    assert ndcg(first, 10)[0] == ndcg(last, 10)[0] < 0.05


def test_repeated_targets_and_histories_count_once() -> None:
    row = [5.0, 4.0, 3.0, 2.0, 1.0]
    once, often = ranked(row, [[1, 3]], [[0]]), ranked(row, [[1, 3, 1, 1, 3]], [[0, 0, 0]])
    for k in (1, 2, 3):
        assert recall(once, k) == recall(often, k)
        assert ndcg(once, k) == ndcg(often, k)
    assert recall(once, 1).tolist() == [0.5]


def test_a_masked_target_is_a_miss_at_every_k() -> None:
    ranks = ranked([5.0, 4.0, 3.0], [[0], [0, 1]], [[0], [0]])
    assert recall(ranks, 50).tolist() == [0.0, 0.5]
    assert ndcg(ranks, 50).tolist() == pytest.approx([0.0, 1 / (1 + 1 / np.log2(3))])


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), levels=st.sampled_from([1, 2, 3, 50]))
def test_values_lie_between_zero_and_one_and_recall_grows_with_k(seed: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    row = rng.integers(0, levels, 25).astype(float).tolist()
    ranks = ranked(row, [rng.integers(0, 25, rng.integers(1, 25)).tolist() for _ in range(6)])
    values = measure(ranks, (1, 5, 10, 20, 50))
    assert all(((column >= 0) & (column <= 1 + 1e-12)).all() for column in values.values())
    assert (values["recall@5"] <= values["recall@10"] + 1e-12).all()
    assert values["recall@50"] == pytest.approx(np.ones(6))


def test_a_query_without_targets_is_nan_and_says_so() -> None:
    ranks = ranked([2.0, 1.0], [[0], []])
    for name, metric in METRICS.items():
        with pytest.warns(RuntimeWarning, match=rf"1 of 2 queries have no targets; their {name}@10"):
            values = metric(ranks, 10)
        assert values[0] == 1.0
        assert np.isnan(values[1])


def test_measure_names_every_metric_at_every_k() -> None:
    ranks = ranked([2.0, 1.0], [[1]])
    assert list(measure(ranks, (1, 2))) == ["recall@1", "recall@2", "ndcg@1", "ndcg@2"]
    assert metric_key("ndcg", 10) == "ndcg@10"
    assert set(measure(ranks)) == {f"{name}@{k}" for name in ("recall", "ndcg") for k in (5, 10, 20, 50)}
    with pytest.raises(ConfigError, match="K = 0"):
        measure(ranks, (10, 0))
