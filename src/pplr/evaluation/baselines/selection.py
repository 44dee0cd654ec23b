"""On what a baseline chooses its settings: some of the validation queries, never the test's."""

from __future__ import annotations

import numpy as np

from pplr.data.dataset import Dataset, Part, Queries

SELECTION_KEY = "ndcg@10"
SELECTION_QUERIES = 2000
"""Validation queries, evenly spaced over the users: enough to tell settings apart, and quick."""


def selection_queries(dataset: Dataset) -> Queries:
    """Return the validation queries that settings are chosen on; none where the data has no validation events."""
    queries = dataset.queries(Part.VALIDATION)
    if len(queries) == 0:
        return queries
    return queries.select(np.unique(np.linspace(0, len(queries) - 1, SELECTION_QUERIES).astype(np.int64)))
