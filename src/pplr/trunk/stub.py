"""The trunk as a client sees it, while its layers are with the server: states out, states in, and their gradients."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from pplr.models.parts.passing import RemoteTrunk, Sent, TrunkReading
from pplr.seeds import derive
from pplr.trunk.work import Manner, States, TrunkWork


class Link(ABC):
    """One client's way to its trunk, and to the trunk's part of its row."""

    @abstractmethod
    def forward(self, number: int, given: States, manner: Manner) -> Callable[[], States]:
        """Send states, and return a function that waits for those behind the trunk (see `TrunkWork.forward`)."""

    @abstractmethod
    def backward(self, number: int, gradient: States) -> None:
        """Send the gradient for what came of pass `number` (see `TrunkWork.backward`)."""

    @abstractmethod
    def gradient(self, number: int) -> States:
        """Wait for the gradient for what pass `number` was given."""

    @abstractmethod
    def reading(self, room: int, *, adapted: bool, best: bool) -> TrunkReading:
        """Return a reading that has read nothing (see `Trunk.reading`)."""

    @abstractmethod
    def start(self, round_number: int) -> None:
        """Begin to train the trunk's part of the row in a round."""

    @abstractmethod
    def squared_norm(self) -> float:
        """Return the squared L2 norm of the gradient of the trunk's part of the row."""

    @abstractmethod
    def step(self, number: int, rate: float, factor: float) -> None:
        """Have step `number` (1, 2, ...) taken in the trunk's part (see `RowOptimiser.step`)."""

    @abstractmethod
    def finish(self) -> None:
        """Put what was trained in its place."""

    @abstractmethod
    def keep(self) -> None:
        """Remember the trunk's part of the row as the best one."""


class DirectLink(Link):
    """Client and server in one process."""

    def __init__(self, work: TrunkWork, client: str) -> None:
        self._work = work
        self._client = client
        self._gradients: dict[int, States] = {}

    def forward(self, number: int, given: States, manner: Manner) -> Callable[[], States]:
        """Return a function that returns the states behind the trunk."""
        result = self._work.forward(self._client, number, given, manner)
        return lambda: result

    def backward(self, number: int, gradient: States) -> None:
        """Compute the gradient."""
        self._gradients[number] = self._work.backward(self._client, number, gradient)

    def gradient(self, number: int) -> States:
        """Return the gradient."""
        return self._gradients.pop(number)

    def reading(self, room: int, *, adapted: bool, best: bool) -> TrunkReading:
        """Return a reading that has read nothing."""
        return self._work.reading(self._client, room, adapted=adapted, best=best)

    def start(self, round_number: int) -> None:
        """Begin to train."""
        self._work.release(self._client)
        self._work.rows.start(self._client, round_number)

    def squared_norm(self) -> float:
        """Return the squared norm of the gradient."""
        return self._work.rows.training(self._client).squared_norm()

    def step(self, number: int, rate: float, factor: float) -> None:
        """Take a step."""
        self._work.rows.step(self._client, number, rate, factor)

    def finish(self) -> None:
        """Put what was trained in its place."""
        self._work.rows.finish(self._client)

    def keep(self) -> None:
        """Remember the row as the best one."""
        self._work.rows.keep(self._client)


class Unassigned(RemoteTrunk):
    """The trunk of a recommender that is nobody's yet: `Backbone.behind` gives each client its own."""

    def sent(self, start: Tensor | None, states: Tensor, mask: Tensor, *, causal: bool) -> Sent:
        """Refuse."""
        raise RuntimeError("This recommender has no trunk: use the one that belongs to a client.")

    def reading(self, room: int) -> TrunkReading:
        """Refuse."""
        raise RuntimeError("This recommender has no trunk: use the one that belongs to a client.")

    def bound(self) -> AbstractContextManager[None]:
        """Do nothing."""
        return nullcontext()

    def training(self, seed: int) -> AbstractContextManager[None]:
        """Do nothing."""
        return nullcontext()


class StubTrunk(RemoteTrunk):
    """Sends states through a link; gradients flow through what comes back.

    Attributes:
        link: the way to the server.
    """

    def __init__(self, link: Link, *, best: bool = False) -> None:
        """Use the newest adapters of the link's client, or those that it has kept as its best."""
        self.link = link
        self._adapted = False
        self._best = best
        self._dropout: int | None = None
        self._drawn = 0
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
    def best(self) -> Iterator[None]:
        """Have the server use the best adapters that this client has kept inside the block, where it uses any."""
        before, self._best = self._best, True
        try:
            yield
        finally:
            self._best = before

    @contextmanager
    def training(self, seed: int) -> Iterator[None]:
        """Have the server apply the adapters' dropout inside the block."""
        before, self._dropout, self._drawn = self._dropout, seed, 0
        try:
            yield
        finally:
            self._dropout = before

    def sent(self, start: Tensor | None, states: Tensor, mask: Tensor, *, causal: bool) -> Sent:
        """Send states, and return a function that waits for those behind the trunk."""
        self._passes += 1
        number, present = self._passes, mask.bool()
        # with nothing trainable below the trunk, its adapters still need the gradient of what is above
        wanted = torch.is_grad_enabled() and self._adapted
        manner = Manner(causal, self._adapted, self._dropout_seed(), wanted, self._best and self._adapted)
        call = _Call(self.link, number, present, start is not None)
        anchor = torch.zeros((), requires_grad=wanted)
        given = states.new_zeros(1, 0, states.shape[-1]) if start is None else start
        send: Any = _Send.apply
        receive: Any = _Receive.apply
        ticket = send(call, manner, given, states.masked_fill(~present[..., None], 0), anchor)

        def received() -> tuple[Tensor | None, Tensor]:
            behind, result = receive(call, ticket)
            return (None if start is None else behind), result

        return received

    def reading(self, room: int) -> TrunkReading:
        """Return a reading that has read nothing, by this client's adapters inside of `bound`, else by the base model."""
        return self.link.reading(room, adapted=self._adapted, best=self._best and self._adapted)

    def _dropout_seed(self) -> int | None:
        """Return the block's seed for its first pass, as a whole model has it, and others for what follows."""
        if self._dropout is None or not self._adapted:
            return None
        self._drawn += 1
        return self._dropout if self._drawn == 1 else derive(self._dropout, self._drawn)


class _Call:
    """One pass on its way."""

    def __init__(self, link: Link, number: int, present: Tensor, started: bool) -> None:
        self.link = link
        self.number = number
        self.present = present
        self.started = started
        self.answer: Callable[[], States] | None = None


class _Send(torch.autograd.Function):
    """Forward sends states and does not wait; backward waits for their gradient.

    Sending and receiving are two functions, so that other work fits between them. Autograd runs what was recorded last
    first: with two passes recorded as send 1, send 2, receive 1, receive 2, the gradient of pass 2 is sent, then that of
    pass 1, and only then is the first waited for.
    """

    @staticmethod
    def forward(ctx: Any, call: _Call, manner: Manner, start: Tensor, rows: Tensor, anchor: Tensor) -> Tensor:
        call.answer = call.link.forward(
            call.number, States(rows, call.present, start if call.started else None), manner
        )
        ctx.call = call
        return anchor.clone()

    @staticmethod
    def backward(ctx: Any, ticket: Tensor) -> tuple[Tensor | None, ...]:
        found = ctx.call.link.gradient(ctx.call.number)
        return None, None, found.start, found.rows, None


class _Receive(torch.autograd.Function):
    """Forward waits for states; backward sends their gradient and does not wait."""

    @staticmethod
    def forward(ctx: Any, call: _Call, ticket: Tensor) -> tuple[Tensor, Tensor]:
        if call.answer is None:
            raise RuntimeError("States are received before any were sent.")
        result = call.answer()
        call.answer = None
        ctx.call = call
        rows = result.rows
        return (rows.new_zeros(1, 0, rows.shape[-1]) if result.start is None else result.start), rows

    @staticmethod
    def backward(ctx: Any, start: Tensor, rows: Tensor) -> tuple[None, Tensor]:
        call = ctx.call
        rows = rows.masked_fill(~call.present[..., None], 0)
        call.link.backward(call.number, States(rows, call.present, start if call.started else None))
        return None, torch.zeros(())
