"""Codecs against NumPy, and what a decoder refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from pplr.errors import ConfigError, RunError
from pplr.trunk.codecs import CODECS, codec, packed, unpacked

STATES = arrays(
    np.float32,
    array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9),
    elements=st.floats(-1e4, 1e4, width=32, allow_subnormal=False),
)


@settings(max_examples=60, deadline=None)
@given(STATES)
def test_float32_is_exact_and_bfloat16_is_torchs_cast(array: np.ndarray) -> None:
    states = torch.from_numpy(array)
    assert torch.equal(codec("float32").decode(codec("float32").encode(states), *states.shape), states)
    half = codec("bfloat16").decode(codec("bfloat16").encode(states), *states.shape)
    assert torch.equal(half, states.bfloat16().float())


@settings(max_examples=60, deadline=None)
@given(STATES)
def test_int8_rounds_each_token_by_its_own_scale(array: np.ndarray) -> None:
    states = torch.from_numpy(array)
    encoded = codec("int8").encode(states)
    decoded = codec("int8").decode(encoded, *states.shape).numpy()
    scales = np.abs(array).max(axis=1) / np.float32(127)
    np.testing.assert_allclose(encoded["scales"].numpy(), scales, rtol=1e-6)
    assert (np.abs(decoded - array) <= scales[:, None] * 0.5 * (1 + 1e-4) + 1e-30).all()
    largest = np.abs(array).argmax(axis=1)
    rows = np.arange(len(array))
    np.testing.assert_allclose(decoded[rows, largest], array[rows, largest], rtol=1e-5)


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("shape", [(0, 5), (3, 5), (7, 576)])
def test_bytes_are_as_many_as_said_and_zeros_stay_zeros(name: str, shape: tuple[int, int]) -> None:
    encoded = codec(name).encode(torch.zeros(shape))
    assert sum(t.nbytes for t in encoded.values()) == shape[0] * codec(name).bytes_per_token(shape[1])
    assert torch.equal(codec(name).decode(encoded, *shape), torch.zeros(shape))


def test_int8_halves_bfloat16() -> None:
    assert codec("int8").bytes_per_token(576) <= 0.51 * codec("bfloat16").bytes_per_token(576)


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_refused(name: str, bad: float) -> None:
    states = torch.ones(2, 3)
    encoded = codec(name).encode(states)
    place = "scales" if name == "int8" else "values"
    encoded[place].view(-1)[1] = bad
    with pytest.raises(RunError, match=r"not finite|negative scale"):
        codec(name).decode(encoded, 2, 3)


@pytest.mark.parametrize("name", CODECS)
def test_other_shapes_types_and_names_are_refused(name: str) -> None:
    encoded = codec(name).encode(torch.ones(4, 6))
    for tokens, width in ((3, 6), (4, 5), (6, 4)):
        with pytest.raises(RunError, match="instead of"):
            codec(name).decode(encoded, tokens, width)
    with pytest.raises(RunError, match="instead of"):
        codec(name).decode({**encoded, "more": torch.ones(1)}, 4, 6)
    with pytest.raises(RunError, match="instead of"):
        codec(name).decode({**encoded, "values": encoded["values"].double()}, 4, 6)


def test_an_unknown_codec_is_named_with_those_that_are() -> None:
    with pytest.raises(ConfigError, match=r"no codec 'int4'\. Did you mean 'int8'\? Codecs: float32, bfloat16, int8"):
        codec("int4")


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 100), st.integers(1, 4), st.integers(1, 6))
def test_padding_is_left_out_and_comes_back_as_zeros(seed: int, rows: int, length: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(rows, length, 3, generator=generator)
    present = torch.rand(rows, length, generator=generator) > 0.4
    sent = packed(states, present)
    assert len(sent) == int(present.sum())
    back = unpacked(sent, present)
    assert torch.equal(back, states * present[..., None])
