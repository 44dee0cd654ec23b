"""Weights of a logarithmic opinion pool against autograd, random rivals, and the truth that targets were drawn from."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pplr.fusion.weights import LEAST, PRIOR, Evidence, learned_weights


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
    new_items = None if new is None else torch.arange(items) % 3 == 1
    if new_items is not None:
        features[1:, :, new_items] = 0.0
    mixed = torch.einsum("s,sqi->qi", torch.tensor(truth), features).masked_fill(masked, -torch.inf)
    mixed = mixed if new_items is None else mixed + (new or 0.0) * new_items
    chosen = torch.multinomial(mixed.softmax(dim=1), targets, replacement=True, generator=generator)
    return Evidence(features, masked, np.repeat(np.arange(queries), targets), chosen.reshape(-1).numpy(), new_items)


def loss(evidence: Evidence, weights: torch.Tensor) -> torch.Tensor:
    """The definition, with loops over queries."""
    total = torch.zeros((), dtype=torch.float64)
    asked = sorted(set(evidence.rows.tolist()))
    for query in asked:
        features = list(evidence.features[:, query].double())
        features += [] if evidence.new_items is None else [evidence.new_items.double()]
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
    least_weight = torch.zeros(len(found), dtype=torch.float64)
    least_weight[0] = 0.0 if new is None else LEAST
    free = (found.detach() > least_weight) | signed
    assert (found >= least_weight)[~signed].all()
    assert found.grad[free].abs().max() < 1e-3 if free.any() else True, "the slope is zero where a weight is free"
    assert (found.grad[~free] > -1e-3).all(), "and points away from zero nowhere else"
    rng = np.random.default_rng(seed)
    for _ in range(5):
        rival = found.detach() + torch.tensor(rng.normal(0, 0.3, len(found)))
        rival = torch.where(signed, rival, least_weight + rival.abs())
        assert float(loss(evidence, rival)) >= float(least) - 1e-6


def test_the_truth_is_found_in_many_queries():
    truth = [0.6, 0.0, 1.5]
    assert learned_weights(drawn(1, 4_000, 12, truth)) == pytest.approx(truth, abs=0.08)


@pytest.mark.parametrize("new", [-1.5, 0.0, 2.0])
def test_what_new_items_are_worth_is_found_in_many_queries(new):
    assert learned_weights(drawn(4, 4_000, 12, [0.6, 1.5], new=new)) == pytest.approx([0.6, 1.5, new], abs=0.1)


def test_the_model_tells_new_items_apart_also_where_it_knows_less_than_counts():
    """Of what it says of known items nothing is true: counts say which is chosen, and its weight would be 0."""
    generator = torch.Generator().manual_seed(6)
    counts, wrong = torch.zeros(400, 9), torch.randn(400, 9, generator=generator)
    targets = torch.multinomial((-2 * wrong).softmax(1), 1, generator=generator)[:, 0]
    counts[torch.arange(400), targets] = 1.0
    told = torch.arange(9) >= 6
    rows, items = np.arange(400), targets.numpy()
    features, masked = torch.stack([wrong, counts]), torch.zeros(400, 9, dtype=torch.bool)
    assert learned_weights(Evidence(features, masked, rows, items))[0] == 0.0
    assert 0 < learned_weights(Evidence(features, masked, rows, items, told))[0] < 0.01


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
