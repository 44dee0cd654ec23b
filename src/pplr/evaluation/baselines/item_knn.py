"""Item-kNN: items that the same users chose as the items of the history.

Cosine similarity of items over users (Deshpande & Karypis, "Item-based top-N recommendation algorithms", 2004).
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import sparse

from pplr.data.dataset import Dataset, Queries
from pplr.evaluation.baselines.sparse_rows import SparseMatrix, row_of_each, sparse_counts, weighted_rows

NEIGHBOURS = 100
"""Similar items kept per item of the history; those as similar as the last one are kept too."""

BLOCK_ITEMS = 1024
"""Items whose similarities are computed at once: bounds the memory of fitting."""


class ItemKnn:
    """Scores item j by the sum over the history's items i of cosine(i, j), weighted by decay^(steps from the end).

    Two items are similar when the same users have training events of both; repetitions do not count. Each item i
    speaks for its 100 nearest items only. decay = 1 forgets the order; 0.5 halves an item's say per step back.
    """

    def __init__(self, similarity: SparseMatrix, decay: float) -> None:
        """Take the similarities [items, items]: row i holds the items that i speaks for."""
        self._similarity = similarity
        self._decay = decay

    @staticmethod
    def fit(dataset: Dataset, decay: float = 1.0) -> ItemKnn:
        """Compute the similarities from training events."""
        return ItemKnn(cosine_neighbours(dataset), decay)

    def scores(self, queries: Queries) -> torch.Tensor:
        """Return the scores [len(queries), items], float64."""
        history = weighted_rows(queries.histories, self._similarity.shape[0], self._decay)
        return torch.from_numpy((history @ self._similarity).toarray())


def cosine_neighbours(dataset: Dataset, neighbours: int = NEIGHBOURS) -> SparseMatrix:
    """Return the cosine of each item with its nearest ones: sparse [items, items], nothing on the diagonal."""
    training, items = dataset.training(), len(dataset.catalogue)
    pairs = np.unique(row_of_each(training) * items + training.values)
    once = sparse_counts(pairs // items, pairs % items, np.ones(len(pairs)), (len(training), items))
    users = np.bincount(pairs % items, minlength=items)
    by_item = sparse.csr_array(once.T)
    blocks = []
    for start in range(0, items, BLOCK_ITEMS):
        shared = (by_item[start : start + BLOCK_ITEMS] @ once).tocoo()
        first, second = shared.row.astype(np.int64) + start, shared.col.astype(np.int64)
        other = first != second
        first, second = first[other], second[other]
        cosine = shared.data[other] / np.sqrt((users[first] * users[second]).astype(np.float64))
        block = sparse_counts(first - start, second, cosine, (min(BLOCK_ITEMS, items - start), items))
        blocks.append(_keep_largest(block, neighbours))
    return sparse.csr_array(sparse.vstack(blocks)) if blocks else sparse.csr_array((0, 0))


def _keep_largest(matrix: SparseMatrix, count: int) -> SparseMatrix:
    """Return `matrix` with the `count` largest entries of each row, and those equal to the last of them."""
    lengths = np.diff(matrix.indptr)
    row = np.repeat(np.arange(len(lengths)), lengths)
    ordered = matrix.data[np.lexsort((-matrix.data, row))]
    bar = np.zeros(len(lengths))
    full = lengths > count
    bar[full] = ordered[matrix.indptr[:-1][full] + count - 1]
    keep = matrix.data >= bar[row]
    return sparse_counts(row[keep], matrix.indices[keep].astype(np.int64), matrix.data[keep], matrix.shape)
