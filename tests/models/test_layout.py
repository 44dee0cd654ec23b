from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pplr.models.layout import Layout, ParameterSpec, TrainableRow, kaiming, normal, ones, zeros

SPECS = [
    ParameterSpec("mine", (3,), ones, private=True, decay=False),
    ParameterSpec("weight", (4, 5), kaiming),
    ParameterSpec("bias", (4,), zeros, decay=False),
    ParameterSpec("table", (2, 3), normal(0.5), private=True),
]


def test_shared_parameters_come_first_in_the_order_given():
    layout = Layout(SPECS)
    assert [spec.name for spec in layout.specs] == ["weight", "bias", "mine", "table"]
    assert (layout.size, layout.shared) == (33, 24)
    assert layout.decay_mask.tolist() == [1] * 20 + [0] * 7 + [1] * 6


def test_views_share_memory_and_cover_every_element_once():
    layout = Layout(SPECS)
    row = torch.zeros(layout.size)
    for view in layout.views(row).values():
        view += 1
    assert torch.equal(row, torch.ones(layout.size))
    bank = torch.arange(2.0 * layout.size).view(2, -1)
    views = layout.views(bank)
    assert views["weight"].shape == (2, 4, 5)
    assert views["table"][1, 1, 2] == bank[1, -1]
    assert list(layout.views(bank[:, : layout.shared])) == ["weight", "bias"]


def test_the_first_row_depends_on_seed_and_name_alone():
    one, other = Layout(SPECS), Layout(list(reversed(SPECS)))
    first, second = one.views(one.initial_row(3)), other.views(other.initial_row(3))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(one.initial_row(3), one.initial_row(4))
    assert first["weight"].abs().max() <= 1 / math.sqrt(5)
    assert first["mine"].tolist() == [1, 1, 1]


def test_the_digest_tells_layouts_apart():
    same = Layout([ParameterSpec(s.name, s.shape, zeros, s.private) for s in SPECS])
    wider = Layout([ParameterSpec(s.name, (*s.shape, 1), zeros, s.private) for s in SPECS])
    public = Layout([ParameterSpec(s.name, s.shape, zeros) for s in SPECS])
    assert Layout(SPECS).digest == same.digest
    assert len({same.digest, wider.digest, public.digest}) == 3


def test_names_must_be_unique():
    with pytest.raises(ValueError, match="mine"):
        Layout([SPECS[0], SPECS[0]])


@given(st.integers(0, 2**31))
def test_gradients_of_a_trainable_row_are_those_of_its_parts(seed):
    layout = Layout(SPECS)
    row = torch.randn(layout.size, generator=torch.Generator().manual_seed(seed))
    trained = TrainableRow(layout, row)
    sum((leaf**2).sum() for leaf in trained.named.values()).backward()
    torch.testing.assert_close(trained.gradient, 2 * row)
    assert trained.values.grad is trained.gradient
    trained.values.add_(1)
    assert torch.equal(trained.named["bias"].detach(), row[20:24] + 1)
    assert not any(part.requires_grad for part in trained.frozen().values())
