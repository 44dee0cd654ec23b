"""User vectors by matrix factorisation of the training events, the same on every run.

Implicit alternating least squares: Hu, Koren and Volinsky, "Collaborative Filtering for Implicit Feedback Datasets",
ICDM 2008, as the library `implicit` has it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from pplr.data.dataset import Ragged

Floats = NDArray[np.float64]


def user_vectors(training: Ragged, factors: int, iterations: int, seed: int) -> Floats:
    """Return [users, factors] one vector per row of `training`.

    Rows and items that occur nowhere in `training` take no part; neither does the size of the catalogue. One thread,
    seeded: the same input gives the same vectors.

    Args:
        training: one row of item codes per user, each with at least one item.
        factors: length of the vectors.
        iterations: rounds of alternating least squares.
        seed: seed of the starting point.
    """
    from implicit.cpu.als import AlternatingLeastSquares

    # after the import, which brings its own thread pools; implicit warns of pools that are larger
    with threadpool_limits(1):
        _, items = np.unique(training.values, return_inverse=True)
        users = np.repeat(np.arange(len(training)), training.lengths)
        ones = np.ones(len(items), dtype=np.float32)
        counts = csr_matrix((ones, (users, items)), shape=(len(training), int(items.max(initial=-1)) + 1))
        model = AlternatingLeastSquares(
            factors=factors, iterations=iterations, num_threads=1, random_state=seed, dtype=np.float64
        )
        model.fit(counts, show_progress=False)
    return np.asarray(model.user_factors, dtype=np.float64)
