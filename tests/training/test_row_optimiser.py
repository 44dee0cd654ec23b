"""The optimiser of a row equals torch's own on the parts, and two optimisers of its halves equal one of the whole."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pplr.models.layout import Layout, ParameterSpec, zeros
from pplr.training.optimiser import Pull, RowOptimiser, clipping

SPECS = [
    ParameterSpec("a", (3, 4), zeros),
    ParameterSpec("bias", (5,), zeros, decay=False),
    ParameterSpec("b", (2, 2), zeros),
]


def _gradients(size: int, steps: int, seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(size, generator=generator) * 3 for _ in range(steps)]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.floats(0.1, 20), st.floats(0, 0.5))
def test_steps_are_those_of_torch_with_clipping(seed: int, most: float, decay: float) -> None:
    layout = Layout(SPECS)
    start = torch.randn(layout.size, generator=torch.Generator().manual_seed(seed))
    ours = RowOptimiser(layout, start, decay)
    parts = {name: view.clone().requires_grad_() for name, view in layout.views(start).items()}
    theirs = torch.optim.AdamW(
        [
            {"params": [parts["a"], parts["b"]], "weight_decay": decay},
            {"params": [parts["bias"]], "weight_decay": 0.0},
        ],
        lr=0.01,
    )
    for gradient in _gradients(layout.size, 4, seed):
        ours.zero()
        ours.row.gradient.add_(gradient)
        for name, view in layout.views(gradient).items():
            parts[name].grad = view.clone()
        norm = torch.nn.utils.clip_grad_norm_(list(parts.values()), most)
        assert math.sqrt(ours.squared_norm()) == pytest.approx(float(norm), rel=1e-5)
        ours.step(0.01, clipping(math.sqrt(ours.squared_norm()), most))
        theirs.step()
    for name, view in layout.views(ours.row.values).items():
        torch.testing.assert_close(view, parts[name].detach(), rtol=1e-5, atol=1e-6)


def test_two_halves_step_like_the_whole() -> None:
    whole, first, second = Layout(SPECS), Layout(SPECS[:2]), Layout(SPECS[2:])
    start = torch.randn(whole.size, generator=torch.Generator().manual_seed(1))
    one = RowOptimiser(whole, start, 0.1)
    two = [RowOptimiser(first, start[: first.size], 0.1), RowOptimiser(second, start[first.size :], 0.1)]
    for gradient in _gradients(whole.size, 5, 2):
        for optimiser, part in zip([one, *two], [gradient, *gradient.split([first.size, second.size])], strict=True):
            optimiser.zero()
            optimiser.row.gradient.add_(part)
        norms = [optimiser.squared_norm() for optimiser in two]
        assert sum(norms) == pytest.approx(one.squared_norm(), rel=1e-5)
        for optimiser in [one, *two]:
            optimiser.step(0.05, clipping(math.sqrt(sum(norms)), 1.0))
    torch.testing.assert_close(torch.cat([o.row.values for o in two]), one.row.values)


def test_a_restored_optimiser_goes_on_bit_for_bit() -> None:
    layout = Layout(SPECS)
    gradients = _gradients(layout.size, 6, 3)
    runs = []
    for interrupted in (False, True):
        optimiser = RowOptimiser(layout, torch.ones(layout.size), 0.1)
        for step, gradient in enumerate(gradients):
            if interrupted and step in (0, 3):
                state = {name: value.clone() for name, value in optimiser.state().items()}
                optimiser = RowOptimiser(layout, torch.zeros(layout.size), 0.1)
                optimiser.restore(state)
            optimiser.zero()
            optimiser.row.gradient.add_(gradient)
            optimiser.step(0.05, 0.5)
        runs.append(optimiser.row.values.clone())
    assert torch.equal(*runs)


def test_moments_go_over_to_another_row_as_if_one_optimiser_had_gone_on() -> None:
    """The row is replaced between rounds, as mixing does; torch's optimiser is told of it in place."""
    layout = Layout(SPECS)
    parameter = torch.ones(layout.size, requires_grad=True)
    theirs = torch.optim.AdamW([parameter], lr=0.05, weight_decay=0.0)
    moments: dict[str, torch.Tensor] = {}
    gradients = iter(_gradients(layout.size, 9, 7))
    for mixed in (torch.ones(layout.size), torch.full((layout.size,), -2.0), torch.zeros(layout.size)):
        ours = RowOptimiser(layout, mixed, 0.0)
        ours.take_up(moments)
        kept = {name: value.clone() for name, value in moments.items()}
        parameter.data.copy_(mixed)
        for _ in range(3):
            gradient = next(gradients)
            ours.zero()
            ours.row.gradient.add_(gradient)
            ours.step(0.05, 1.0)
            parameter.grad = gradient.clone()
            theirs.step()
        torch.testing.assert_close(ours.row.values.detach(), parameter.detach())
        assert all(torch.equal(kept[name], value) for name, value in moments.items()), (
            "what was taken up is not touched"
        )
        moments = ours.moments()
    assert int(moments["step"]) == 9


def test_what_has_moved_in_the_round_before_and_may_not_now_stays_where_it_is() -> None:
    layout = Layout(SPECS)
    before, now = (torch.rand(layout.size, generator=torch.Generator().manual_seed(n)).round() for n in (1, 2))
    assert ((before == 1) & (now == 0)).any()
    first = RowOptimiser(layout, torch.ones(layout.size), 0.1, factors=before)
    first.row.gradient.fill_(1.0)
    first.step(0.1, 1.0)
    second = RowOptimiser(layout, torch.ones(layout.size), 0.1, factors=now)
    second.take_up(first.moments())
    second.row.gradient.fill_(1.0)
    second.step(0.1, 1.0)
    assert torch.equal(second.row.values.detach() != 1, now.bool())


def test_moments_from_another_device_go_to_that_of_the_row_but_for_their_count() -> None:
    layout = Layout(SPECS)
    here = RowOptimiser(layout, torch.ones(layout.size), 0.0)
    here.row.gradient.fill_(1.0)
    here.step(0.1, 1.0)
    there = RowOptimiser(layout, torch.ones(layout.size, device="meta"), 0.0)
    there.take_up(here.moments())
    devices = {name: value.device.type for name, value in there.moments().items()}
    assert devices == {"step": "cpu", "exp_avg": "meta", "exp_avg_sq": "meta"}


def test_clipping_never_enlarges() -> None:
    assert clipping(0.5, 1.0) == 1.0
    assert clipping(0.0, 1.0) == 1.0
    assert clipping(4.0, 1.0) == pytest.approx(0.25, rel=1e-6)


def test_what_does_not_belong_to_a_client_stays_where_it_is_and_counts_for_nothing() -> None:
    layout, inner = Layout(SPECS), Layout(SPECS[:1])
    start = torch.randn(layout.size, generator=torch.Generator().manual_seed(4))
    part = (torch.arange(layout.size) < inner.size).float()
    whole, alone = RowOptimiser(layout, start, 0.1, factors=part), RowOptimiser(inner, start[: inner.size], 0.1)
    for gradient in _gradients(layout.size, 3, 5):
        for optimiser, values in ((whole, gradient), (alone, gradient[: inner.size])):
            optimiser.zero()
            optimiser.row.gradient.add_(values)
        assert whole.squared_norm() == pytest.approx(alone.squared_norm())
        whole.step(0.01, 0.5)
        alone.step(0.01, 0.5)
    assert torch.equal(whole.row.values[: inner.size], alone.row.values)
    assert torch.equal(whole.row.values[inner.size :], start[inner.size :])


@pytest.mark.parametrize("strength", [0.0, 0.7])
def test_a_part_with_a_factor_of_its_own_moves_as_it_would_alone_at_that_rate(strength) -> None:
    layout = Layout(SPECS)
    inner = [Layout([spec]) for spec in layout.specs]
    sizes, factors = [part.size for part in inner], (2.5, 1.0, 0.0)
    start = torch.randn(layout.size, generator=torch.Generator().manual_seed(6)) * 0.05

    def pull(towards):
        return Pull(strength, towards) if strength else None

    whole = RowOptimiser(
        layout,
        start,
        20.0,
        pull(torch.zeros(layout.shared)),
        factors=torch.cat([torch.full((size,), factor) for size, factor in zip(sizes, factors, strict=True)]),
    )
    parts = [
        RowOptimiser(part, values, 20.0, pull(torch.zeros(part.size)))
        for part, values in zip(inner, start.split(sizes), strict=True)
    ]
    for gradient in _gradients(layout.size, 3, 7):
        for optimiser, values in zip((whole, *parts), (gradient, *gradient.split(sizes)), strict=True):
            optimiser.zero()
            optimiser.row.gradient.add_(values)
        moving = [part.squared_norm() for part, factor in zip(parts, factors, strict=True) if factor]
        assert whole.squared_norm() == pytest.approx(sum(moving), rel=1e-5)
        whole.step(0.01, 0.5)
        for optimiser, factor in zip(parts, factors, strict=True):
            if factor:
                optimiser.step(0.01 * factor, 0.5)
    found = whole.row.values.split(sizes)
    for got, optimiser, factor in zip(found, parts, factors, strict=True):
        if factor in (0.0, 1.0):
            assert torch.equal(got, optimiser.row.values)
        else:
            torch.testing.assert_close(got, optimiser.row.values)
