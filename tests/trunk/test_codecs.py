"""Codecs against NumPy, and what a decoder refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from pplr.errors import ConfigError, RunError
from pplr.trunk.codecs import CODECS, codec, packed, rotated, unpacked

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
    """In the rotated space; a rotation keeps lengths, so a state is off by half a scale times the root of its width."""
    states = torch.from_numpy(array)
    encoded = codec("int8").encode(states)
    decoded = codec("int8").decode(encoded, *states.shape).numpy()
    turned = array @ rotation(array.shape[1])
    scales = np.abs(turned).max(axis=1) / 127
    np.testing.assert_allclose(encoded["scales"].numpy(), scales, rtol=1e-4, atol=1e-30)
    off = np.linalg.norm(decoded - array, axis=1)
    assert (off <= scales * 0.5 * np.sqrt(array.shape[1]) * (1 + 1e-3) + 1e-30).all()
    assert np.abs(encoded["values"].numpy()).max() == (127 if (scales > 0).any() else 0)


def rotation(width: int) -> np.ndarray:
    """The matrix that docs/wire.md describes, by another way: signs, and the parity of common bits in a block."""
    block = np.gcd(width, 128)
    signs = []
    for channel in range(width):
        mixed = channel * 2654435769 % 2**32
        mixed = (mixed ^ mixed >> 15) * 2246822519 % 2**32
        signs.append(-1.0 if mixed >> 31 else 1.0)
    places = np.arange(width)
    common = [[(int(i % block) & int(j % block)).bit_count() % 2 for j in places] for i in places]
    same = places[:, None] // block == places[None] // block
    return np.array(signs)[:, None] * np.where(same, 1.0 - 2.0 * np.array(common), 0.0) / np.sqrt(block)


@pytest.mark.parametrize("width", [1, 3, 8, 20, 384])
def test_the_rotation_is_the_documented_orthogonal_matrix(width: int) -> None:
    matrix = rotation(width)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(width), atol=1e-12)
    found = rotated(torch.eye(width))
    np.testing.assert_allclose(found.numpy(), matrix, atol=1e-6)
    np.testing.assert_allclose(rotated(found, back=True).numpy(), np.eye(width), atol=1e-6)
    if width == 384:
        assert 150 < (matrix[np.arange(width), np.arange(width) // 128 * 128] > 0).sum() < 234, "signs are balanced"


def test_a_few_large_channels_do_not_round_the_others_away() -> None:
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(200, 384, generator=generator)
    states[:, [7, 200, 383]] *= torch.tensor([40.0, -25.0, 60.0])
    others = torch.tensor([channel for channel in range(384) if channel not in {7, 200, 383}])
    decoded = codec("int8").decode(codec("int8").encode(states), *states.shape)
    off = (decoded - states)[:, others].norm() / states[:, others].norm()
    one_scale = states.abs().amax(1, keepdim=True) / 127
    plainly_off = ((states / one_scale).round() * one_scale - states)[:, others].norm() / states[:, others].norm()
    assert off < 0.04
    assert off < plainly_off / 3


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
