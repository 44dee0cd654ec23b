"""Ragged rows of items as sparse matrices: the common ground of the baselines that look at histories."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse

from pplr.data.dataset import Ints, Ragged
from pplr.evaluation.ranking import Floats

SparseMatrix = Any
"""A scipy.sparse.csr_array of float64 (scipy carries no types)."""

RECENT_ITEMS = 50
"""A history counts with its last 50 items; longer ones say little about the next item."""


def row_of_each(rows: Ragged) -> Ints:
    """Return the row number of every value: [total]."""
    return np.repeat(np.arange(len(rows), dtype=np.int64), rows.lengths)


def steps_from_end(rows: Ragged) -> Ints:
    """Return how many values come after each value in its row, 0 for the last: [total]."""
    return np.repeat(rows.offsets[1:], rows.lengths) - 1 - np.arange(len(rows.values), dtype=np.int64)


def weighted_rows(rows: Ragged, items: int, decay: float = 1.0, recent: int = RECENT_ITEMS) -> SparseMatrix:
    """Return histories as weights [rows, items]: decay^(steps from the end), 0 before the last `recent` ones.

    The weights of an item that occurs several times in a row add up.
    """
    steps = steps_from_end(rows)
    weights = np.where(steps < recent, decay ** np.minimum(steps, recent), 0.0)
    return sparse_counts(row_of_each(rows), rows.values, weights, (len(rows), items))


def sparse_counts(rows: Ints, columns: Ints, weights: Floats, shape: tuple[int, int]) -> SparseMatrix:
    """Return the matrix [shape] that holds the sum of the weights given for each (row, column); no zeros are kept."""
    matrix = sparse.csr_array(sparse.coo_array((weights, (rows, columns)), shape=shape))
    matrix.eliminate_zeros()
    return matrix
