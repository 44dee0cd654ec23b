"""Floating-point operations of layers whose weights are frozen and whose adapters are trained, by the usual count.

For T tokens that see S pairs of (reading, read) token in all:

    2 N T        forward through the linear maps, N weights; as much backward, for gradients of activations only
    2 A T        forward through the adapters, A weights; twice as much backward, for their own gradients too
    4 h S        attention forward, h = layers x heads x width of a head; twice as much backward
    2 V d        per position at which logits are computed, and as much backward: V words, width d

A causal row of length T has T^2 / 2 pairs. Norms, rotations, softmax, the embedding and the optimiser are left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """What the count needs to know of some layers.

    Attributes:
        linear: N, weights of all linear maps.
        attention: h, heads x width of a head, summed over the layers.
        adapters: A, weights of all adapters.
    """

    linear: int
    attention: int
    adapters: int = 0

    def forward(self, tokens: float, pairs: float) -> float:
        """Return the operations of a forward pass."""
        return 2.0 * (self.linear + self.adapters) * tokens + 4.0 * self.attention * pairs

    def backward(self, tokens: float, pairs: float) -> float:
        """Return the operations of a backward pass down to what the layers were given."""
        return 2.0 * (self.linear + 2 * self.adapters) * tokens + 8.0 * self.attention * pairs


def together(shapes: Iterable[Shape]) -> Shape:
    """Return the shape of several layers."""
    every = list(shapes)
    return Shape(sum(s.linear for s in every), sum(s.attention for s in every), sum(s.adapters for s in every))


def head(weights: int, positions: float) -> float:
    """Return the operations of a head of `weights` = V d at some positions, in one direction."""
    return 2.0 * weights * positions
