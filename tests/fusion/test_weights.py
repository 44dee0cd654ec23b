"""Weights of a logarithmic opinion pool against autograd, random rivals, and the truth that targets were drawn from."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pplr.fusion.weights import PRIOR, Evidence, learned_weights


def drawn(
    seed: int, queries: int, items: int, truth: list[float], targets: int = 1, new: float | None = None
) -> Evidence:
    """Features at random, and targets drawn from the pool with the weights `truth`; some items are masked.

    With `new`, every third item is one that nobody has chosen: nothing but the first feature says anything of it, and its
    log-odds are `new`.
    """
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(len(truth), queries, items, generator=generator)
    masked = torch.rand(queries, items, generator=generator) < 0.1
    masked[:, 0] = False
    unchosen = None if new is None else torch.arange(items) % 3 == 1
    if unchosen is not None:
        features[1:, :, unchosen] = 0.0
    mixed = torch.einsum("s,sqi->qi", torch.tensor(truth), features).masked_fill(masked, -torch.inf)
    mixed = mixed if unchosen is None else mixed + (new or 0.0) * unchosen
    chosen = torch.multinomial(mixed.softmax(dim=1), targets, replacement=True, generator=generator)
    return Evidence(features, masked, np.repeat(np.arange(queries), targets), chosen.reshape(-1).numpy(), unchosen)


def loss(evidence: Evidence, weights: torch.Tensor) -> torch.Tensor:
    """The definition, with loops over queries."""
    total = torch.zeros((), dtype=torch.float64)
    asked = sorted(set(evidence.rows.tolist()))
    for query in asked:
        features = list(evidence.features[:, query].double())
        features += [] if evidence.unchosen is None else [evidence.unchosen.double()]
        mixed = sum(weight * feature for weight, feature in zip(weights, features, strict=True))
        log_p = torch.log_softmax(mixed[~evidence.masked[query]], dim=0)
        place = torch.cumsum(~evidence.masked[query], dim=0) - 1
        mine = [log_p[place[item]] for row, item in zip(evidence.rows, evidence.items, strict=True) if row == query]
        total = total - sum(mine) / len(mine)
    away = weights - torch.eye(len(weights), dtype=torch.float64)[0]
    return (total + PRIOR / 2 * (away @ away)) / len(asked)


@given(
    seed=st.integers(0, 10**6),
    truth=st.lists(st.floats(0, 2), min_size=1, max_size=4),
    targets=st.integers(1, 3),
    new=st.none() | st.floats(-3, 3),
)
def test_no_weights_make_the_targets_likelier(seed, truth, targets, new):
    evidence = drawn(seed, 12, 9, truth, targets, new)
    signed = torch.arange(len(truth) + (new is not None)) >= len(truth)  # what is added for new items
    found = torch.tensor(learned_weights(evidence), requires_grad=True)
    least = loss(evidence, found)
    least.backward()
    least = least.detach()
    free = (found.detach() > 0) | signed
    assert (found >= 0)[~signed].all()
    assert found.grad[free].abs().max() < 1e-3 if free.any() else True, "the slope is zero where a weight is free"
    assert (found.grad[~free] > -1e-3).all(), "and points away from zero nowhere else"
    rng = np.random.default_rng(seed)
    for _ in range(5):
        rival = found.detach() + torch.tensor(rng.normal(0, 0.3, len(found)))
        rival = torch.where(signed, rival, rival.abs())
        assert float(loss(evidence, rival)) >= float(least) - 1e-6


def test_the_truth_is_found_in_many_queries():
    truth = [0.6, 0.0, 1.5]
    assert learned_weights(drawn(1, 4_000, 12, truth)) == pytest.approx(truth, abs=0.08)


@pytest.mark.parametrize("new", [-1.5, 0.0, 2.0])
def test_what_new_items_are_worth_is_found_in_many_queries(new):
    assert learned_weights(drawn(4, 4_000, 12, [0.6, 1.5], new=new)) == pytest.approx([0.6, 1.5, new], abs=0.1)


@pytest.mark.parametrize("queries", [0, 1, 3])
def test_few_queries_change_little(queries):
    weights = learned_weights(drawn(2, queries, 9, [0.0, 3.0]))
    assert abs(weights - np.array([1.0, 0.0])).max() <= queries * 3
    if not queries:
        assert weights.tolist() == [1.0, 0.0], "the model alone"


def test_queries_without_targets_say_nothing():
    evidence = drawn(3, 20, 9, [1.0, 1.0])
    kept = evidence.rows < 10
    some = Evidence(evidence.features, evidence.masked, evidence.rows[kept], evidence.items[kept])
    assert learned_weights(some) == pytest.approx(learned_weights(evidence.select(np.arange(10))), abs=1e-4)
