"""Buckets of queries, against a loop in plain Python."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pplr.data.dataset import Queries, Ragged
from pplr.evaluation.buckets import KNOWN, NEW, by_history, by_novelty

ROWS = st.lists(st.lists(st.integers(0, 9), max_size=6), min_size=1, max_size=8)


def as_lists(queries):
    return [
        (int(user), history.tolist(), targets.tolist(), int(time))
        for user, history, targets, time in zip(
            queries.users, queries.histories, queries.targets, queries.times, strict=True
        )
    ]


@given(ROWS, st.data())
def test_queries_are_parted_by_what_training_knows(training, data):
    count = data.draw(st.integers(0, 6))
    rows = st.lists(st.integers(0, 9), min_size=1, max_size=5)
    histories, targets = ([data.draw(rows) for _ in range(count)] for _ in range(2))
    queries = Queries(
        np.arange(count) + 3, Ragged.from_rows(histories), Ragged.from_rows(targets), np.arange(count) * 10
    )
    known = {item for row in training for item in row}
    found = by_novelty(queries, Ragged.from_rows(training), 10)
    for name, wanted in ((NEW, lambda item: item not in known), (KNOWN, known.__contains__)):
        kept = [[item for item in row if wanted(item)] for row in targets]
        expected = [(i + 3, histories[i], kept[i], i * 10) for i in range(count) if kept[i]]
        assert as_lists(found[name]) == expected


@given(st.lists(st.integers(0, 30), max_size=12))
def test_every_query_is_in_the_bucket_of_its_history(lengths):
    histories = Ragged.from_rows([[0] * length for length in lengths])
    queries = Queries(np.arange(len(lengths)), histories, Ragged.from_rows([[1]] * len(lengths)))
    found = {name: part.users.tolist() for name, part in by_history(queries, (1, 5, 20)).items()}
    assert found == {
        "histories of 1 to 4": [i for i, length in enumerate(lengths) if 1 <= length <= 4],
        "histories of 5 to 19": [i for i, length in enumerate(lengths) if 5 <= length <= 19],
        "histories of 20 or more": [i for i, length in enumerate(lengths) if length >= 20],
    }
