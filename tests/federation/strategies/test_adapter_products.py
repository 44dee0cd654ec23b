"""Averages of products: `product` against dense products and NumPy's decomposition, `ffa` against exact arithmetic."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from row_cohorts import LAYOUT, cohort_of, combined, layout_of, round_of

import tiny
from pplr.errors import ConfigError
from pplr.federation.strategies import FedAvg, FrozenFactorA, Pplr, Product
from pplr.federation.strategies.product import refactored
from pplr.models.layout import Layout, ParameterSpec, zeros

STEMS = ("block.0.q", "block.1.q")
SEEDS = st.integers(0, 2**31)


def products(rows, stem):
    named = LAYOUT.views(rows)
    return named[f"{stem}.lora_B"] @ named[f"{stem}.lora_A"]


def best(matrix, rank):
    """The best approximation of that rank (Eckart and Young), by NumPy."""
    u, sizes, v = np.linalg.svd(matrix)
    return (u[:, :rank] * sizes[:rank]) @ v[:rank]


@given(SEEDS, st.integers(2, 6), st.integers(0, 4))
def test_every_adapter_is_the_best_of_its_rank_of_the_dense_average(seed, count, absent):
    one = round_of(seed, count, absent=min(absent, count - 2))
    rows, weights = combined(Product(), one), np.where(one.present, one.sizes, 0)
    for stem in STEMS:
        dense = np.average(products(one.rows, stem).numpy(), axis=0, weights=weights)
        for found in products(rows, stem).numpy():
            np.testing.assert_allclose(found, best(dense, 2), rtol=1e-7, atol=1e-9)
    plain = combined(FedAvg(), one)
    for name in ("projection", "bias"):
        torch.testing.assert_close(LAYOUT.views(rows)[name], LAYOUT.views(plain)[name])


@given(SEEDS, st.integers(2, 5), st.integers(0, 3))
def test_pplr_mixes_products_by_its_own_matrix(seed, count, absent):
    one = round_of(seed, count, absent=min(absent, count - 2), number=3)
    strategy = Pplr(products=True)
    rows, matrix = combined(strategy, one), strategy.mixing(cohort_of(strategy, one)).matrix
    for stem in STEMS:
        dense = np.einsum("ci,iab->cab", matrix, products(one.rows, stem).numpy())
        for client in range(count):
            np.testing.assert_allclose(
                products(rows, stem)[client].numpy(), best(dense[client], 2), rtol=1e-7, atol=1e-9
            )


@given(SEEDS, st.integers(1, 4), st.integers(1, 6), st.integers(1, 6), st.integers(1, 6))
def test_thin_and_wide_stacks_of_factors_are_both_exact(seed, rank, pairs, extra_out, extra_in):
    rng = np.random.default_rng(seed)
    shapes = ((rank + extra_out, rank), (rank, rank + extra_in))
    given_pairs = [tuple(torch.from_numpy(rng.normal(size=shape)) for shape in shapes) for _ in range(pairs)]
    weights = rng.dirichlet(np.ones(pairs))
    a, b = refactored(given_pairs, weights)
    dense = sum(weight * (b_i @ a_i).numpy() for weight, (b_i, a_i) in zip(weights, given_pairs, strict=True))
    np.testing.assert_allclose((b @ a).numpy(), best(dense, rank), rtol=1e-7, atol=1e-9)
    lengths = np.mean([float(a_i.square().sum()) for _, a_i in given_pairs])
    np.testing.assert_allclose((a @ a.T).numpy(), np.eye(rank) * lengths / rank, rtol=1e-7, atol=1e-9)
    assert ((b.T @ b) - torch.diag(torch.diag(b.T @ b))).abs().max() < 1e-9, "B's columns are at right angles too"


def test_adapters_that_have_learnt_nothing_stay_without_effect():
    pairs = [(torch.zeros(4, 2), torch.randn(2, 5, generator=torch.Generator().manual_seed(c))) for c in range(3)]
    a, b = refactored(pairs, np.full(3, 1 / 3))
    assert torch.equal(b, torch.zeros(4, 2))
    assert torch.isfinite(a).all()
    a, b = refactored([(torch.zeros(4, 2), torch.zeros(2, 5))] * 2, np.full(2, 0.5))
    assert torch.isfinite(a).all()
    assert torch.equal(b, torch.zeros(4, 2))


def test_averages_of_factors_are_something_else():
    one = round_of(3, 4)
    gap = products(combined(FedAvg(), one), STEMS[0])[0] - products(combined(Product(), one), STEMS[0])[0]
    assert gap.abs().max() > 0.05


@given(SEEDS, st.integers(2, 6))
def test_with_one_a_for_all_it_is_fedavg(seed, count):
    one = round_of(seed, count)
    for stem in STEMS:
        LAYOUT.views(one.rows)[f"{stem}.lora_A"][:] = LAYOUT.views(one.start)[f"{stem}.lora_A"]
    found, expected = combined(Product(), one), combined(FedAvg(), one)
    for stem in STEMS:
        torch.testing.assert_close(products(found, stem), products(expected, stem), rtol=1e-8, atol=1e-10)


def test_with_a_frozen_the_average_of_factors_is_that_of_products_to_the_bit():
    """Small whole numbers, and shares that are powers of two: no sum or product of them is rounded."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randint(-8, 9, (LAYOUT.size,), generator=generator).double()
    rows = torch.randint(-8, 9, (4, LAYOUT.size), generator=generator).double()
    one = replace(round_of(0, 4), start=start, rows=rows, sizes=np.array([1.0, 1, 2, 4]))
    averaged = layout_of(FrozenFactorA()).views(combined(FrozenFactorA(), one))
    for stem in STEMS:
        a, b = LAYOUT.views(start)[f"{stem}.lora_A"], LAYOUT.views(rows)[f"{stem}.lora_B"]
        dense = torch.einsum("c,coi->oi", torch.from_numpy(one.sizes / 8), b @ a)
        assert f"{stem}.lora_A" not in averaged, "A does not travel"
        assert torch.equal(averaged[f"{stem}.lora_B"] @ a, dense.expand(4, -1, -1))


def test_ffa_trains_b_and_leaves_a_as_it_was_drawn():
    settings = {"adapters": True, "adapter": {"rank": 2, "targets": ("query", "value")}, "live_items": 8}
    coordinator, members = tiny.federation(None, strategy=FrozenFactorA(), rounds=2, backbone_settings=settings)
    backbone = members[0]._backbone
    layout = backbone.layout
    coordinator.run()
    start = layout.views(layout.initial_row(5))
    frozen = [spec.name for spec in layout.specs if spec.frozen]
    assert frozen
    assert all(name.endswith(".lora_A") for name in frozen)
    assert layout.shared == layout.size - sum(spec.size for spec in layout.specs if spec.frozen)
    for member in members:
        named = layout.views(member.row(coordinator.bank.row(member.info.name)))
        for name in frozen:
            assert torch.equal(named[name], start[name]), name
            other = name.replace("lora_A", "lora_B")
            assert not torch.equal(named[other], start[other]), other


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda layout: FrozenFactorA().scope(layout.specs), "strategy.kind = 'ffa'"),
        (lambda layout: Product().aggregator(layout, torch.zeros(3)), "strategy.kind = 'product'"),
        (lambda layout: Pplr(products=True).aggregator(layout, torch.zeros(3)), "strategy.products = true"),
    ],
)
def test_without_adapters_the_sentence_says_what_to_do(make, named):
    with pytest.raises(ConfigError, match=r"Set backbone\.adapters = true") as caught:
        make(Layout([ParameterSpec("bias", (3,), zeros)]))
    assert str(caught.value).startswith(named)
