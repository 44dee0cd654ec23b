"""Recall and NDCG equal ranx (an independent implementation) where no scores tie.

ranx runs without numba's compiler here: compiling takes minutes, these inputs take milliseconds without.
"""

from __future__ import annotations

import warnings

import numba
import numpy as np
import pytest
import torch

from pplr.data.dataset import Queries, Ragged
from pplr.evaluation.evaluate import evaluate

numba.config.DISABLE_JIT = True
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import ranx

KS = (1, 5, 10, 20, 50)


class Table:
    def __init__(self, table: np.ndarray) -> None:
        self.table = torch.from_numpy(table)

    def scores(self, queries: Queries) -> torch.Tensor:
        return self.table[torch.from_numpy(queries.users)]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("seed", "users", "items"), [(0, 40, 90), (1, 7, 30), (2, 25, 400)])
def test_equals_ranx_on_random_inputs(seed: int, users: int, items: int) -> None:
    rng = np.random.default_rng(seed)
    table = rng.permuted(np.tile(np.arange(items), (users, 1)), axis=1) / items
    histories = [rng.choice(items, rng.integers(0, 15)).tolist() for _ in range(users)]
    targets = [rng.choice(items, rng.integers(1, 14), replace=False).tolist() for _ in range(users)]
    queries = Queries(np.arange(users), Ragged.from_rows(histories), Ragged.from_rows(targets))
    ours = evaluate(Table(table), queries, items, KS, batch=9)

    names = [f"u{user:03d}" for user in range(users)]
    qrels = ranx.Qrels({name: {f"i{t}": 1 for t in row} for name, row in zip(names, targets, strict=True)})
    run = ranx.Run(
        {
            name: {f"i{item}": float(table[user, item]) for item in range(items) if item not in set(histories[user])}
            for user, name in enumerate(names)
        }
    )
    for k in KS:
        for key in (f"recall@{k}", f"ndcg@{k}"):
            theirs = ranx.evaluate(qrels, run, key, return_mean=False)
            np.testing.assert_allclose(ours.values[key], theirs, atol=1e-12, err_msg=key)
