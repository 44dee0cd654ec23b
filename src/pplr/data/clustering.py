"""Clients by taste: k-means on the user vectors of a matrix factorisation, as in arXiv:2402.09959v2's experiments."""

from __future__ import annotations

import warnings

import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from pplr.data.dataset import Ints, Ragged
from pplr.data.factorisation import user_vectors
from pplr.data.group_sizes import filled_up, least_size
from pplr.seeds import derive


def cluster_users(
    training: Ragged, count: int, *, factors: int, iterations: int, minimum_share: float, seed: int
) -> Ints:
    """Return the cluster of each row of `training`, each cluster with its least number of users.

    Vectors are divided by their length first: k-means would otherwise part heavy users from light ones, whose vectors
    are short, rather than tastes. Clusters that are too small are filled up with the users nearest to their centre.
    One thread, seeded: the same input gives the same clusters.

    Args:
        training: one row of item codes per user, each with at least one item.
        count: number of clusters, at most the number of rows.
        factors: length of the user vectors.
        iterations: rounds of alternating least squares.
        minimum_share: least size of a cluster, as a share of rows / count.
        seed: the run's seed.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    vectors = user_vectors(training, factors, iterations, derive(seed, "clients", "factorisation"))
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors = vectors / np.where(lengths > 0, lengths, 1)
    with threadpool_limits(1), warnings.catch_warnings():
        # fewer different vectors than clusters: filled_up takes care of it
        warnings.simplefilter("ignore", ConvergenceWarning)
        means = KMeans(count, n_init=10, random_state=derive(seed, "clients", "kmeans") % 2**32)
        distances = np.asarray(means.fit_transform(vectors), dtype=np.float64)
        groups = np.asarray(means.labels_, dtype=np.int64)
    return filled_up(groups, distances, least_size(len(training), count, minimum_share))
