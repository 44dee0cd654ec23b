"""The trunk as a client sees it, while its layers are with the server: one autograd function."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from pplr.models.parts.passing import Trunk, TrunkReading
from pplr.trunk.work import Manner, States, TrunkWork


class Link(ABC):
    """One client's way to its trunk."""

    @abstractmethod
    def forward(self, number: int, given: States, manner: Manner) -> States:
        """Return the states behind the trunk (see `TrunkWork.forward`)."""

    @abstractmethod
    def backward(self, number: int, gradient: States) -> States:
        """Return the gradient for what pass `number` was given (see `TrunkWork.backward`)."""

    @abstractmethod
    def reading(self, room: int, *, adapted: bool) -> TrunkReading:
        """Return a reading that has read nothing (see `Trunk.reading`)."""


class DirectLink(Link):
    """Client and server in one process."""

    def __init__(self, work: TrunkWork, client: str) -> None:
        self._work = work
        self._client = client

    def forward(self, number: int, given: States, manner: Manner) -> States:
        """Return the states behind the trunk."""
        return self._work.forward(self._client, number, given, manner)

    def backward(self, number: int, gradient: States) -> States:
        """Return the gradient."""
        return self._work.backward(self._client, number, gradient)

    def reading(self, room: int, *, adapted: bool) -> TrunkReading:
        """Return a reading that has read nothing."""
        return self._work.reading(self._client, room, adapted=adapted)


class StubTrunk(Trunk):
    """Sends states through a link; gradients flow through what comes back."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._adapted = False
        self._dropout: int | None = None
        self._passes = 0

    @contextmanager
    def bound(self) -> Iterator[None]:
        """Have the server use this client's adapters inside the block."""
        before, self._adapted = self._adapted, True
        try:
            yield
        finally:
            self._adapted = before

    @contextmanager
    def training(self, seed: int) -> Iterator[None]:
        """Have the server apply the adapters' dropout inside the block."""
        before, self._dropout = self._dropout, seed
        try:
            yield
        finally:
            self._dropout = before

    def through(self, states: Tensor, mask: Tensor) -> Tensor:
        """Return states behind the trunk."""
        return self._pass(None, states, mask, causal=False)[1]

    def continued(self, start: Tensor | None, states: Tensor, mask: Tensor) -> tuple[Tensor | None, Tensor]:
        """Return states behind the trunk, of a common start and of rows that continue it."""
        return self._pass(start, states, mask, causal=True)

    def reading(self, room: int) -> TrunkReading:
        """Refuse: readings come with the service."""
        """Return a reading that has read nothing, by this client's adapters inside of `bound`, else by the base model."""
        return self._link.reading(room, adapted=self._adapted)

    def _pass(self, start: Tensor | None, rows: Tensor, mask: Tensor, *, causal: bool) -> tuple[Tensor | None, Tensor]:
        self._passes += 1
        # with nothing trainable below the trunk, its adapters still need the gradient of what is above
        wanted = torch.is_grad_enabled() and self._adapted
        manner = Manner(causal, self._adapted, self._dropout if self._adapted else None, wanted)
        anchor = torch.zeros((), requires_grad=wanted)
        given = rows.new_zeros(1, 0, rows.shape[-1]) if start is None else start
        rows = rows.masked_fill(~mask.bool()[..., None], 0)
        apply: Any = _Pass.apply
        behind, result = apply(self._link, self._passes, manner, mask.bool(), start is not None, given, rows, anchor)
        return (None if start is None else behind), result


class _Pass(torch.autograd.Function):
    """Forward and backward through a link."""

    @staticmethod
    def forward(
        ctx: Any,
        link: Link,
        number: int,
        manner: Manner,
        present: Tensor,
        started: bool,
        start: Tensor,
        rows: Tensor,
        anchor: Tensor,
    ) -> tuple[Tensor, Tensor]:
        result = link.forward(number, States(rows, present, start if started else None), manner)
        ctx.link, ctx.number, ctx.present, ctx.started = link, number, present, started
        return (start.clone() if result.start is None else result.start), result.rows

    @staticmethod
    def backward(ctx: Any, start: Tensor, rows: Tensor) -> tuple[Tensor | None, ...]:
        rows = rows.masked_fill(~ctx.present[..., None], 0)
        found = ctx.link.backward(ctx.number, States(rows, ctx.present, start if ctx.started else None))
        return None, None, None, None, None, found.start, found.rows, None
