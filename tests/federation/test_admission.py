"""What another organisation sends is used only if it can be an answer to what was asked."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pplr.federation.admission import flaw, implausible, length, outlying, shortening
from pplr.federation.messages import TrainTask, Update

TASK = TrainTask("a", 3, 0.5, torch.zeros(4))
GOOD = Update("a", 3, torch.ones(4), 1.0, 5, 7, {})


def test_an_answer_passes():
    assert flaw(GOOD, TASK) is None
    assert flaw(replace(GOOD, loss=math.nan, targets=0), TASK) is None, "a client without examples has no loss"
    assert length(GOOD, TASK) == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"client": "b"}, "'b'"),
        ({"round": 2}, "round 2"),
        ({"row": torch.ones(5)}, "5 float32, not 4"),
        ({"row": torch.ones(2, 2)}, "2x2"),
        ({"row": torch.ones(4, dtype=torch.float64)}, "float64"),
        ({"row": torch.tensor([1.0, math.nan, 0, 0])}, "finite"),
        ({"row": torch.tensor([1.0, -math.inf, 0, 0])}, "finite"),
        ({"loss": math.nan}, "loss"),
        ({"loss": math.inf}, "loss"),
        ({"loss": -0.1}, "loss is -0.1"),
        ({"loss": 1e6}, "loss"),
        ({"targets": -1}, "-1"),
        ({"tokens": -1}, "-1"),
    ],
)
def test_what_cannot_be_the_answer_is_named(change, words):
    assert words in (flaw(replace(GOOD, **change), TASK) or "")


@given(
    lengths=st.lists(st.floats(0, 1e6), min_size=3, max_size=9),
    bound=st.floats(1.5, 20),
    order=st.randoms(use_true_random=False),
)
def test_lengths_are_compared_with_their_median(lengths, bound, order):
    named = {f"c{i}": value for i, value in enumerate(lengths)}
    found = outlying(named, bound)
    median = np.median(lengths)
    assert found.keys() == {name for name, value in named.items() if median > 0 and value > bound * median}
    items = list(named.items())
    order.shuffle(items)
    assert outlying(dict(items), bound) == found
    assert len(found) <= len(lengths) / 2, "a majority is never refused"


def test_two_are_no_cohort():
    assert not outlying({"a": 1.0, "b": 1e9}, 2.0)
    assert not shortening({"a": 1.0, "b": 1e9}, 2.0)
    assert not implausible({"a": 1.0, "b": 90.0}, 2.0)


@given(lengths=st.lists(st.floats(0, 1e6), min_size=3, max_size=9), bound=st.floats(1, 20))
def test_what_is_too_long_is_shortened_to_the_bound_and_nothing_else(lengths, bound):
    found = shortening({f"c{i}": value for i, value in enumerate(lengths)}, bound)
    longest = bound * np.median(lengths)
    for i, value in enumerate(lengths):
        if longest > 0 and value > longest:
            assert found[f"c{i}"] * value == pytest.approx(longest)
        else:
            assert f"c{i}" not in found, "where most have changed nothing there is nothing to compare with"


@given(losses=st.lists(st.floats(0.01, 100), min_size=3, max_size=9), bound=st.floats(1.1, 20))
def test_losses_far_above_or_below_the_median_are_named(losses, bound):
    found = implausible({f"c{i}": value for i, value in enumerate(losses)}, bound)
    median = np.median(losses)
    assert found.keys() == {f"c{i}" for i, v in enumerate(losses) if v > bound * median or v < median / bound}
