"""Baselines against definitions written out with loops, on tiny data."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pplr.data.dataset import Catalogue, Dataset, Part, Queries, Ragged
from pplr.errors import ConfigError, DataError
from pplr.evaluation.baselines import (
    BASELINES,
    ItemKnn,
    Popularity,
    Recent,
    Transitions,
    ValidationWindow,
    fit_baselines,
)
from pplr.evaluation.baselines import item_knn as item_knn_module
from pplr.evaluation.baselines.item_knn import cosine_neighbours
from pplr.evaluation.evaluate import evaluate
from pplr.evaluation.scorer import Scorer

ITEMS = 8
LEAVE_ONE_OUT = (Part.VALIDATION, Part.TEST)
GLOBAL_TIME = (Part.VALIDATION, Part.VALIDATION, Part.TEST, Part.TEST)


def dataset_of(seed: int, ends: tuple[Part, ...] = LEAVE_ONE_OUT, users: int = 9, timed: bool = True) -> Dataset:
    """Random sequences, items repeating, each user's last events belonging to the parts `ends`."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(len(ends), len(ends) + 8, users)
    rows = Ragged.from_rows([rng.integers(0, ITEMS, length) for length in lengths])
    parts = np.concatenate([np.r_[np.full(n - len(ends), Part.TRAIN), ends] for n in lengths]).astype(np.int8)
    times = np.concatenate([np.sort(rng.integers(0, 60, n)) for n in lengths])
    catalogue = Catalogue(tuple(f"i{i}" for i in range(ITEMS)), tuple("t" for _ in range(ITEMS)))
    return Dataset(catalogue, tuple(f"u{u}" for u in range(users)), rows, parts, times if timed else None)


def training_rows(dataset: Dataset) -> list[list[int]]:
    return [
        [i for i, part in zip(row, parts, strict=True) if part == Part.TRAIN]
        for row, parts in zip(dataset.items, Ragged(dataset.parts.astype(np.int64), dataset.items.offsets), strict=True)
    ]


def table(scorer: Scorer, queries: Queries) -> np.ndarray:
    return scorer.scores(queries).numpy()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_popularity_counts_training_events(seed: int) -> None:
    dataset = dataset_of(seed)
    counts = Counter(item for row in training_rows(dataset) for item in row)
    found = table(Popularity.fit(dataset), dataset.queries(Part.TEST))
    assert (found == [counts[item] for item in range(ITEMS)]).all()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_transitions_equal_their_definition(seed: int) -> None:
    dataset = dataset_of(seed)
    follows = np.zeros((ITEMS, ITEMS))
    for row in training_rows(dataset):
        for place, item in enumerate(row):
            for distance in (1, 2, 3):
                if place + distance < len(row):
                    follows[item, row[place + distance]] += 1 / distance
    queries = dataset.queries(Part.TEST)
    expected = [
        sum(0.5**back * follows[item] for back, item in enumerate(history[::-1])) for history in queries.histories
    ]
    found = table(Transitions.fit(dataset), queries)
    np.testing.assert_allclose(found, 6 * np.array(expected))  # whole weights 6, 3, 2 instead of 1, 1/2, 1/3


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), decay=st.sampled_from([1.0, 0.5]))
def test_item_knn_equals_its_definition(seed: int, decay: float) -> None:
    dataset = dataset_of(seed)
    owners = [{user for user, row in enumerate(training_rows(dataset)) if item in row} for item in range(ITEMS)]
    cosine = np.zeros((ITEMS, ITEMS))
    for a in range(ITEMS):
        for b in range(ITEMS):
            if a != b and owners[a] and owners[b]:
                cosine[a, b] = len(owners[a] & owners[b]) / np.sqrt(len(owners[a]) * len(owners[b]))
    queries = dataset.queries(Part.TEST)
    expected = [sum(decay**back * cosine[item] for back, item in enumerate(row[::-1])) for row in queries.histories]
    np.testing.assert_allclose(table(ItemKnn.fit(dataset, decay), queries), expected, atol=1e-12)


def test_item_knn_keeps_the_nearest_and_their_equals(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = dataset_of(11, users=40)
    full = cosine_neighbours(dataset).toarray()
    monkeypatch.setattr(item_knn_module, "BLOCK_ITEMS", 3)
    np.testing.assert_allclose(cosine_neighbours(dataset).toarray(), full)
    for keep in (1, 3):
        expected = [np.where(row >= np.sort(row)[-keep], row, 0.0) for row in full]
        np.testing.assert_allclose(cosine_neighbours(dataset, keep).toarray(), expected)


def test_only_the_last_fifty_items_of_a_history_count() -> None:
    dataset = dataset_of(12)
    long = Ragged.from_rows([[7] * 30 + [0, 1, 2, 3, 4] * 10])
    short = Ragged.from_rows([[0, 1, 2, 3, 4] * 10])
    nothing = Ragged.from_rows([[]])
    for scorer in (ItemKnn.fit(dataset), Transitions.fit(dataset)):
        first, second = (table(scorer, Queries(np.array([0]), row, nothing)) for row in (long, short))
        np.testing.assert_array_equal(first, second)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), window=st.integers(1, 70))
def test_recent_counts_training_events_strictly_before_the_query(seed: int, window: int) -> None:
    dataset = dataset_of(seed)
    queries = dataset.queries(Part.TEST)
    times, events = dataset.training_times(), dataset.training().values
    assert times is not None
    assert queries.times is not None
    if not len(queries):
        return
    last = int(times.max()) + 1
    popularity = np.bincount(events, minlength=ITEMS)
    found = table(Recent.fit(dataset, [window]), queries)
    for row, now in zip(found, queries.times.tolist(), strict=True):
        start = min(now, last) - window
        counts = [sum(e == i and start <= t < now for e, t in zip(events, times, strict=True)) for i in range(ITEMS)]
        assert np.floor(row).astype(int).tolist() == counts
        ours = sorted(range(ITEMS), key=lambda i: (-counts[i], -popularity[i], i))
        assert np.argsort(-row, kind="stable").tolist() == ours


def test_recent_chooses_the_window_that_is_best_on_validation() -> None:
    """Items 0, 3, 4 were popular long ago, item 1 lately, and three users' validation event is item 1."""
    rows = [[5, 1, 2], [6, 1, 2], [7, 1, 2], [0, 3, 4, 1, 6, 2], [0, 3, 4, 0, 3, 4, 1, 6, 2]]
    times = [[10, 100, 101], [20, 100, 101], [30, 100, 101], [11, 12, 13, 95, 100, 101]]
    times += [[11, 12, 13, 14, 15, 16, 94, 100, 101]]
    parts = np.concatenate([np.r_[np.zeros(len(row) - 2), 1, 2] for row in rows]).astype(np.int8)
    catalogue = Catalogue(tuple("abcdefgh"), tuple("abcdefgh"))
    dataset = Dataset(catalogue, tuple("uvwxy"), Ragged.from_rows(rows), parts, np.concatenate(times))
    validation = dataset.queries(Part.VALIDATION)
    short, long = (evaluate(Recent.fit(dataset, [w]), validation, ITEMS, (10,)).overall()["ndcg@10"] for w in (10, 95))
    assert short > long
    assert Recent.fit(dataset, [95, 10]).window == 10
    assert Recent.fit(dataset, [95, 10, 11]).window == 11  # counts the same events as 10, and is longer
    assert Recent.fit(dataset).window in {85 >> halved for halved in range(1, 11)}  # training lasts from 10 to 95


def test_recent_is_absent_without_time() -> None:
    dataset = dataset_of(1, timed=False)
    assert "recent" not in fit_baselines(dataset)
    assert "recent" in fit_baselines(dataset_of(1))
    with pytest.raises(DataError, match="needs event times"):
        Recent.fit(dataset)
    with pytest.raises(DataError, match="queries without times"):
        Recent.fit(dataset_of(1)).scores(dataset.queries(Part.TEST))


def test_validation_window_counts_validation_events_and_orders_ties_by_popularity() -> None:
    dataset = dataset_of(2, GLOBAL_TIME)
    row = table(ValidationWindow.fit(dataset), dataset.queries(Part.TEST))[0]
    counts = Counter(dataset.items.values[dataset.parts == Part.VALIDATION].tolist())
    popularity = Counter(item for each in training_rows(dataset) for item in each)
    assert np.floor(row).astype(int).tolist() == [counts[item] for item in range(ITEMS)]
    ours = np.argsort(-row, kind="stable").tolist()
    assert ours == sorted(range(ITEMS), key=lambda item: (-counts[item], -popularity[item], item))


def test_validation_window_is_for_test_queries_of_a_global_split_only() -> None:
    assert "validation_window" in fit_baselines(dataset_of(2, GLOBAL_TIME))
    assert "validation_window" not in fit_baselines(dataset_of(2, GLOBAL_TIME), Part.VALIDATION)
    assert "validation_window" not in fit_baselines(dataset_of(2, LEAVE_ONE_OUT))


@pytest.mark.parametrize("ends", [LEAVE_ONE_OUT, GLOBAL_TIME])
def test_changing_test_events_changes_no_score(ends: tuple[Part, ...]) -> None:
    dataset = dataset_of(3, ends, users=20)
    items, test = dataset.items.values.copy(), dataset.parts == Part.TEST
    items[test] = (items[test] + 3) % ITEMS
    assert dataset.times is not None
    times = dataset.times + np.where(test, 1000, 0)
    changed = Dataset(dataset.catalogue, dataset.user_ids, Ragged(items, dataset.items.offsets), dataset.parts, times)
    queries = dataset.queries(Part.TEST)
    before, after = fit_baselines(dataset), fit_baselines(changed)
    assert list(before) == list(after)
    for name in before:
        np.testing.assert_array_equal(table(before[name], queries), table(after[name], queries), err_msg=name)


@pytest.mark.parametrize("ends", [LEAVE_ONE_OUT, GLOBAL_TIME])
def test_scores_are_finite_and_depend_on_no_other_row(ends: tuple[Part, ...]) -> None:
    dataset = dataset_of(4, ends, users=20)
    queries = dataset.queries(Part.TEST)
    order = np.random.default_rng(0).permutation(len(queries))
    for name, scorer in fit_baselines(dataset).items():
        whole = table(scorer, queries)
        assert whole.shape == (len(queries), ITEMS), name
        assert np.isfinite(whole).all(), name
        np.testing.assert_array_equal(table(scorer, queries.select(order)), whole[order], err_msg=name)
        np.testing.assert_array_equal(table(scorer, queries.select(order[:1])), whole[order[:1]], err_msg=name)
        assert table(scorer, queries.select(order[:0])).shape == (0, ITEMS), name


@pytest.mark.parametrize("name", list(BASELINES))
def test_data_without_training_events_scores_everything_alike(name: str) -> None:
    dataset = dataset_of(5, GLOBAL_TIME)
    parts = np.maximum(dataset.parts, Part.VALIDATION).astype(np.int8)
    empty = Dataset(dataset.catalogue, dataset.user_ids, dataset.items, parts, dataset.times)
    scores = fit_baselines(empty, names=[name])[name].scores(empty.queries(Part.TEST))
    if name != "validation_window":
        assert torch.equal(scores, torch.zeros_like(scores))


def test_baselines_are_chosen_by_name() -> None:
    dataset = dataset_of(6)
    assert list(fit_baselines(dataset, names=["transitions", "popularity"])) == ["transitions", "popularity"]
    with pytest.raises(ConfigError, match=r"no baseline 'popular'.*Did you mean 'popularity'"):
        fit_baselines(dataset, names=["popular"])
