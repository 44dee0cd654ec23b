"""What the trunk's server computes for one client: states forward, gradients backward, steps of the client's row.

It knows no wire: `pplr.trunk.stub` calls it directly where client and server are one process, and the service calls it
with what arrives in frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from pplr.errors import RunError
from pplr.models.causal.interface import Sight
from pplr.models.lora import Lora
from pplr.models.parts.passing import PartModel, TrunkReading
from pplr.trunk.rows import ServerRows


@dataclass(frozen=True)
class States:
    """Hidden states of a batch, as they pass between client and server.

    Attributes:
        rows: [rows, length, width]; zeros at padding.
        present: [rows, length] true where there is a token.
        start: [1, length, width] states of tokens that all rows continue, or None. Decoders only.
    """

    rows: Tensor
    present: Tensor
    start: Tensor | None = None


@dataclass(frozen=True)
class Manner:
    """How states are to be passed through the trunk.

    Attributes:
        causal: rows continue `start`, and padding stands at their end; otherwise `present` is a mask.
        adapted: with the client's adapters; otherwise the base model alone.
        dropout: seed of the adapters' dropout, or None where nothing is trained.
        gradients: `backward` will be called for these states.
        best: with the best adapters that the client has kept, rather than the newest.
    """

    causal: bool
    adapted: bool = True
    dropout: int | None = None
    gradients: bool = False
    best: bool = False


@dataclass(frozen=True)
class _Held:
    """A forward pass whose backward pass is still to come."""

    given: States
    result: States


class TrunkWork:
    """The frozen trunk, and the rows of all clients."""

    def __init__(self, model: PartModel, lora: Lora, rows: ServerRows) -> None:
        self._model = model
        self._lora = lora
        self.rows = rows
        self._held: dict[tuple[str, int], _Held] = {}

    def forward(self, client: str, number: int, given: States, manner: Manner) -> States:
        """Return the states behind the trunk; with gradients, the pass is held under `number` until `backward`.

        Raises:
            RunError: the number is in use.
        """
        if (client, number) in self._held:
            raise RunError(f"Client {client} has a forward pass {number} already. Number passes upwards.")
        with self._ready(client, manner):
            if not manner.gradients:
                with torch.no_grad():
                    return self._pass(given, manner)
            leaves = States(
                given.rows.detach().requires_grad_(),
                given.present,
                None if given.start is None else given.start.detach().requires_grad_(),
            )
            with torch.enable_grad():  # the caller may be a backward or forward function of autograd's
                result = self._pass(leaves, manner)
        self._held[client, number] = _Held(leaves, result)
        return _detached(result)

    def backward(self, client: str, number: int, gradient: States) -> States:
        """Return the gradient for what `forward` was given; that of the client's row is added up.

        Raises:
            RunError: there is no such pass.
        """
        held = self._held.pop((client, number), None)
        if held is None:
            raise RunError(f"Client {client} sent a gradient for pass {number}, which is not held. Repeat the step.")
        outputs, gradients = [held.result.rows], [gradient.rows]
        if held.result.start is not None and gradient.start is not None:
            outputs.append(held.result.start)
            gradients.append(gradient.start)
        torch.autograd.backward(outputs, gradients)
        start = held.given.start
        return States(_gradient_of(held.given.rows), held.given.present, None if start is None else _gradient_of(start))

    def reading(self, client: str, room: int, *, adapted: bool, best: bool = False) -> ClientReading:
        """Return a reading that has read nothing, with room for `room` tokens behind the prompt."""
        manner = Manner(True, adapted, best=best)
        return ClientReading(self._model.reading(room), lambda: self._ready(client, manner))

    def release(self, client: str) -> None:
        """Forget all passes of a client."""
        for key in [key for key in self._held if key[0] == client]:
            del self._held[key]

    def held(self, client: str) -> int:
        """Return how many passes of a client are held."""
        return sum(key[0] == client for key in self._held)

    @contextmanager
    def _ready(self, client: str, manner: Manner) -> Iterator[None]:
        if not manner.adapted:
            yield
            return
        if manner.gradients:
            parameters = self.rows.training(client).row.named
        else:
            parameters = self.rows.parameters(client, best=manner.best)
        with self._lora.bound(parameters):
            if manner.dropout is None:
                yield
                return
            with self._lora.training(manner.dropout):
                yield

    def _pass(self, given: States, manner: Manner) -> States:
        mask = given.present.long()
        if manner.causal:
            start, rows = self._model.continued(given.start, given.rows, mask)
            return States(rows, given.present, start)
        return States(self._model.through(given.rows, mask), given.present)


class ClientReading(TrunkReading):
    """A reading by the trunk with one client's adapters."""

    def __init__(self, reading: TrunkReading, ready: Callable[[], AbstractContextManager[None]]) -> None:
        self._reading = reading
        self._ready = ready

    def read(self, states: Tensor, positions: Tensor, sight: Sight) -> Tensor:
        """Return the states behind the trunk."""
        with torch.no_grad(), self._ready():
            return self._reading.read(states, positions, sight)

    def keep(self, moves: list[tuple[int, int]], rows: int) -> None:
        """Keep some rows."""
        self._reading.keep(moves, rows)

    def spread(self, rows: int, room: int) -> None:
        """Give the only row to all."""
        self._reading.spread(rows, room)


def _detached(states: States) -> States:
    return States(states.rows.detach(), states.present, None if states.start is None else states.start.detach())


def _gradient_of(leaf: Tensor) -> Tensor:
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
