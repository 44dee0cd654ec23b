"""The optimiser of one row: AdamW over a flat vector, with the norm of its gradient in the caller's hands.

Where a client's parameters are in two places, each place has such an optimiser, and the gradient is clipped by the norm
of both: squared norms add up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from pplr.models.layout import Layout, TrainableRow

Moments = dict[str, Tensor]
"""AdamW's moving averages of the gradient and of its square, [P] each, and how many steps they are over."""
MOMENTS = frozenset({"exp_avg", "exp_avg_sq", "step"})


@dataclass(frozen=True)
class Pull:
    """A proximal term of the loss, strength / 2 ||theta - towards||^2, over the first parameters of a row.

    Attributes:
        strength: mu, or lambda; above 0.
        towards: [S] the values that the first S parameters are drawn to.
    """

    strength: float
    towards: Tensor

    def added(self, gradient: Tensor, values: Tensor) -> Tensor:
        """Return the gradient [P] of loss and term at `values` [P]; `gradient` [P] is that of the loss."""
        size = len(self.towards)
        return torch.cat([gradient[:size] + self.strength * (values[:size] - self.towards), gradient[size:]])


class RowOptimiser:
    """AdamW (Loshchilov & Hutter, arXiv:1711.05101) on a working copy of one row.

    Attributes:
        row: the working copy, whose named parts collect gradients.
    """

    def __init__(
        self, layout: Layout, row: Tensor, weight_decay: float, pull: Pull | None = None, factors: Tensor | None = None
    ) -> None:
        """Begin at `row` [P]; the gradient of a `pull` is added to what the parts have collected.

        `factors` [P] are of the learning rate: where they are zero nothing moves, and no gradient counts.
        """
        self.row = TrainableRow(layout, row)
        self._pull = pull
        self._moves = None if factors is None else factors.ne(0)
        scales = factors is not None and bool(((factors != 0) & (factors != 1)).any())
        self._factors = factors if scales else None  # for factors of 0 and 1 `_moves` is enough
        self._adam = torch.optim.AdamW([self.row.values], weight_decay=0.0)
        self._decay = layout.decay_mask.to(self.row.values.device) * weight_decay
        if self._moves is not None:
            self._decay *= self._moves

    def zero(self) -> None:
        """Forget the gradient."""
        self.row.gradient.zero_()

    def squared_norm(self) -> float:
        """Return the squared L2 norm of the gradient."""
        return float(torch.linalg.vector_norm(self._gradient())) ** 2

    def step(self, rate: float, factor: float) -> None:
        """Take a step at learning rate `rate` along the gradient times `factor` (of clipping)."""
        self.row.gradient.copy_(self._gradient()).mul_(factor)
        self._adam.param_groups[0]["lr"] = rate
        if self._factors is None:
            self._move(rate)
            return
        before = self.row.values.clone()
        self._move(rate)
        self.row.values.copy_(before.lerp_(self.row.values, self._factors))  # exact where the factor is 0 or 1

    def _move(self, rate: float) -> None:
        self.row.values.mul_(1 - rate * self._decay)
        self._adam.step()

    def _gradient(self) -> Tensor:
        gradient = self.row.gradient
        if self._pull is not None:
            gradient = self._pull.added(gradient, self.row.values.detach())
        return gradient if self._moves is None else gradient * self._moves

    def state(self) -> dict[str, Tensor]:
        """Return all that decides the next step, by name: values, gradient, moments and their count."""
        return {"values": self.row.values.detach(), "gradient": self.row.gradient} | self.moments()

    def moments(self) -> Moments:
        """Return moments and their count, the optimiser's own tensors; empty before the first step."""
        moments = self._adam.state.get(self.row.values, {})
        return {name: value for name, value in moments.items() if isinstance(value, Tensor)}

    def take_up(self, moments: Moments) -> None:
        """Go on from copies of what `moments` returned, on whatever device; where it is empty, from nothing."""
        self._adam.state.clear()
        if not moments:
            return
        device = self.row.values.device  # the count is no vector, and stays on the CPU, where AdamW wants it
        copies = {name: value.to(device if value.ndim else "cpu", copy=True) for name, value in moments.items()}
        if self._moves is not None:  # what has moved may not move now, not by momentum either
            copies = {name: value * self._moves if value.ndim else value for name, value in copies.items()}
        self._adam.state[self.row.values] = copies

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state` returned."""
        with torch.no_grad():
            self.row.values.copy_(state["values"])
            self.row.gradient.copy_(state["gradient"])
        self.take_up({name: value for name, value in state.items() if name not in ("values", "gradient")})


class OtherPlace(Protocol):
    """Another place that holds parameters of the same client, with an optimiser of their own."""

    def start(self, round_number: int) -> None:
        """Begin to train in a round."""

    def squared_norm(self) -> float:
        """Return the squared L2 norm of the gradient."""

    def step(self, number: int, rate: float, factor: float) -> None:
        """Take step `number` (1, 2, ...) as `RowOptimiser.step` does, and forget the gradient."""

    def finish(self) -> None:
        """Put what was trained in its place."""


def clipping(norm: float, most: float) -> float:
    """Return the factor, 1 at most, that brings a gradient of L2 norm `norm` to the norm `most`."""
    return min(1.0, most / (norm + 1e-6))


def fitting(moments: Moments, size: int) -> bool:
    """Return whether these are all moments of a row of `size` numbers."""
    return moments.keys() == MOMENTS and all(value.shape == (size,) for value in moments.values() if value.ndim)
