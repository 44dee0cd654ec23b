"""How hidden states and their gradients are written as bytes: exactly, in half of the bytes, or in a quarter.

A codec turns [tokens, width] numbers into named tensors, and back. What comes back is checked: a decoder returns finite
numbers of the expected shape, or raises.
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor

from pplr.errors import ConfigError, RunError, nearest

LARGEST_BLOCK = 128
"""Channels that the codec int8 mixes, at most: 2 x 128 operations a number, little beside a layer's."""


class Codec(ABC):
    """One way to write states.

    Attributes:
        name: as the configuration and the frames say it.
    """

    name: str

    @abstractmethod
    def encode(self, states: Tensor) -> dict[str, Tensor]:
        """Return named tensors for states [tokens, width]."""

    @abstractmethod
    def decode(self, tensors: Mapping[str, Tensor], tokens: int, width: int) -> Tensor:
        """Return states [tokens, width] float32.

        Raises:
            RunError: the tensors are not those of `tokens` states of `width` finite numbers.
        """

    @abstractmethod
    def bytes_per_token(self, width: int) -> int:
        """Return how many bytes a state of `width` numbers takes."""


class PlainCodec(Codec):
    """The numbers as they are, in one floating-point type."""

    def __init__(self, name: str, dtype: torch.dtype) -> None:
        self.name = name
        self._dtype = dtype

    def encode(self, states: Tensor) -> dict[str, Tensor]:
        """Return {"values"}."""
        return {"values": states.detach().to(self._dtype).cpu().contiguous()}

    def decode(self, tensors: Mapping[str, Tensor], tokens: int, width: int) -> Tensor:
        """Return the states."""
        values = _expected(tensors, {"values": ((tokens, width), self._dtype)}, self.name)["values"]
        return _finite(values.float(), self.name)

    def bytes_per_token(self, width: int) -> int:
        """Return how many bytes a state takes."""
        return width * self._dtype.itemsize


class Int8Codec(Codec):
    """Whole numbers from -127 to 127 times a scale per token, its largest magnitude over 127, after a rotation.

    Hidden states of language models have a few channels that are tens of times larger than the others, and one scale for
    all would round the others away. An orthogonal matrix known to both ends, random signs followed by a Hadamard
    matrix on each block of channels, spreads every channel over its block first (Ashkboos et al., QuaRot,
    arXiv:2404.00456). A rotated number is off by half a scale at most. Rounding is to the nearest, ties to even.
    """

    name = "int8"

    def encode(self, states: Tensor) -> dict[str, Tensor]:
        """Return {"values" int8 [tokens, width], "scales" float32 [tokens]}."""
        states = rotated(states.detach().float())
        scales = states.abs().amax(dim=1) / 127 if states.shape[1] else states.new_zeros(len(states))
        divisors = torch.where(scales > 0, scales, 1.0)
        values = (states / divisors[:, None]).round().clamp(-127, 127).to(torch.int8)
        return {"values": values.cpu(), "scales": scales.cpu()}

    def decode(self, tensors: Mapping[str, Tensor], tokens: int, width: int) -> Tensor:
        """Return the states."""
        shapes = {"values": ((tokens, width), torch.int8), "scales": ((tokens,), torch.float32)}
        found = _expected(tensors, shapes, self.name)
        scales = found["scales"]
        if bool((scales < 0).any()):
            raise RunError("A frame in the codec int8 has a negative scale.")
        return _finite(rotated(found["values"].float() * scales[:, None], back=True), self.name)

    def bytes_per_token(self, width: int) -> int:
        """Return how many bytes a state takes."""
        return width + 4


def rotated(states: Tensor, *, back: bool = False) -> Tensor:
    """Return states [tokens, width] times the codec's orthogonal matrix, or `back`, times its inverse.

    Channel c is multiplied by its sign, and each block of channels, the largest power of two up to 128 that divides the
    width, by the Hadamard matrix of that size over the root of the size. Of odd widths only signs change.
    """
    width = states.shape[1]
    signs, hadamard = _rotation(width, states.device)
    if back:
        return _in_blocks(states, hadamard) * signs
    return _in_blocks(states * signs, hadamard)


def _in_blocks(states: Tensor, matrix: Tensor) -> Tensor:
    return (states.reshape(-1, len(matrix)) @ matrix).view_as(states)


@functools.cache
def _rotation(width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the signs [width] and the Hadamard matrix [block, block], which is its own inverse."""
    channels = torch.arange(width, dtype=torch.int64)
    mixed = channels * 2654435769 % 2**32  # multiply and shift, as in the end of MurmurHash3
    mixed = (mixed ^ (mixed >> 15)) * 2246822519 % 2**32
    hadamard = torch.ones(1, 1)
    while len(hadamard) < LARGEST_BLOCK and width and width % (2 * len(hadamard)) == 0:
        hadamard = torch.kron(torch.tensor([[1.0, 1.0], [1.0, -1.0]]), hadamard)
    signs = 1.0 - 2.0 * (mixed >> 31)
    return signs.to(device), (hadamard / math.sqrt(len(hadamard))).to(device)


CODECS: dict[str, Codec] = {
    codec.name: codec
    for codec in (PlainCodec("float32", torch.float32), PlainCodec("bfloat16", torch.bfloat16), Int8Codec())
}
"""All codecs by name."""


def codec(name: str) -> Codec:
    """Return the codec of that name.

    Raises:
        ConfigError: there is none.
    """
    if name not in CODECS:
        raise ConfigError(f"There is no codec {name!r}.{nearest(name, CODECS)} Codecs: {', '.join(CODECS)}.")
    return CODECS[name]


def packed(states: Tensor, present: Tensor) -> Tensor:
    """Return the states [tokens, width] of `states` [rows, length, width] where `present` [rows, length] is true."""
    return states[present]


def unpacked(states: Tensor, present: Tensor) -> Tensor:
    """Return [rows, length, width] with `states` [tokens, width] where `present` is true, and zeros elsewhere."""
    rows = states.new_zeros(*present.shape, states.shape[-1])
    rows[present] = states
    return rows


def _expected(
    tensors: Mapping[str, Tensor], wanted: Mapping[str, tuple[tuple[int, ...], torch.dtype]], name: str
) -> Mapping[str, Tensor]:
    if tensors.keys() != wanted.keys():
        raise RunError(f"A frame in the codec {name} holds {sorted(tensors)} instead of {sorted(wanted)}.")
    for key, (shape, dtype) in wanted.items():
        if tuple(tensors[key].shape) != shape or tensors[key].dtype != dtype:
            raise RunError(
                f"A frame in the codec {name} has {key} of shape {tuple(tensors[key].shape)} and type {tensors[key].dtype} "
                f"instead of {shape} and {dtype}."
            )
    return tensors


def _finite(states: Tensor, name: str) -> Tensor:
    if not bool(torch.isfinite(states).all()):
        raise RunError(f"A frame in the codec {name} holds numbers that are not finite. Lower the learning rate.")
    return states
