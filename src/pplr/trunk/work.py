"""What the trunk's server computes for clients: states forward, gradients backward, steps of the client's row.

It knows no wire: `pplr.trunk.stub` calls it directly where client and server are one process, and the service calls it
with what arrives in frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
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


Entry = tuple[str, int, States, Manner]
"""A forward pass: client, number, states, manner."""


@dataclass
class _Joint:
    """Forward passes that were computed together; `open` of them still expect a gradient."""

    open: int


@dataclass(frozen=True)
class _Held:
    """A forward pass whose backward pass is still to come."""

    given: States
    result: States
    joint: _Joint


class TrunkWork:
    """The frozen trunk, and the rows of all clients.

    Passes of several clients can be computed together, as one batch in which each sample has its own client's adapters.
    """

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
        return self.forward_all([(client, number, given, manner)])[0]

    def forward_all(self, entries: Sequence[Entry]) -> list[States]:
        """Return the states behind the trunk of several passes, computed together.

        They must agree in `manner_key`; each client is among them once.

        Raises:
            RunError: a number is in use.
        """
        for client, number, _, _ in entries:
            if (client, number) in self._held:
                raise RunError(f"Client {client} has a forward pass {number} already. Number passes upwards.")
        manner = entries[0][3]
        if not manner.gradients:
            with torch.no_grad(), self._ready(entries) as sizes:
                return self._passed(entries, [entry[2] for entry in entries], sizes)
        leaves = [_leaves(given) for _, _, given, _ in entries]
        with torch.enable_grad(), self._ready(entries) as sizes:  # the caller may be a function of autograd's
            results = self._passed(entries, leaves, sizes)
        joint = _Joint(len(entries))
        for (client, number, _, _), leaf, result in zip(entries, leaves, results, strict=True):
            self._held[client, number] = _Held(leaf, result, joint)
        return [_detached(result) for result in results]

    def backward(self, client: str, number: int, gradient: States) -> States:
        """Return the gradient for what `forward` was given; that of the client's row is added up.

        Raises:
            RunError: there is no such pass, or the gradient is of another shape.
        """
        return self.backward_all([(client, number, gradient)])[0]

    def backward_all(self, gradients: Sequence[tuple[str, int, States]]) -> list[States]:
        """Return the gradients for what several passes were given, computed together.

        Raises:
            RunError: one has no such pass, or is of another shape; then nothing is computed.
        """
        outputs: list[Tensor] = []
        inflow: list[Tensor] = []
        for client, number, gradient in gradients:
            held = self._held.get((client, number))
            if held is None:
                raise RunError(
                    f"Client {client} sent a gradient for pass {number}, which is not held. Repeat the step."
                )
            pairs = [(held.result.rows, gradient.rows), (held.result.start, gradient.start)]
            if any((one is None) != (two is None) for one, two in pairs) or any(
                one is not None and two is not None and one.shape != two.shape for one, two in pairs
            ):
                raise RunError(f"Client {client} sent a gradient of another shape than pass {number} has.")
            outputs += [one for one, _ in pairs if one is not None]
            inflow += [two for _, two in pairs if two is not None]
        done = [self._held.pop((client, number)) for client, number, _ in gradients]
        for one in done:
            one.joint.open -= 1
        torch.autograd.backward(outputs, inflow, retain_graph=any(one.joint.open for one in done))
        return [
            States(
                _gradient_of(one.given.rows),
                one.given.present,
                None if one.given.start is None else _gradient_of(one.given.start),
            )
            for one in done
        ]

    def partners(self, client: str, number: int) -> list[tuple[str, int]]:
        """Return the other passes that were computed together with this one and still expect a gradient."""
        own = self._held.get((client, number))
        if own is None or own.joint.open == 1:
            return []
        return [key for key, held in self._held.items() if held.joint is own.joint and key != (client, number)]

    def can_join(self) -> bool:
        """Return whether passes of several clients can be computed together: the model's length is free."""
        return not hasattr(self._model.part.config, "attention_window")

    def reading(self, client: str, room: int, *, adapted: bool, best: bool = False) -> ClientReading:
        """Return a reading that has read nothing, with room for `room` tokens behind the prompt."""

        def ready() -> AbstractContextManager[None]:
            return self._lora.bound(self.rows.parameters(client, best=best)) if adapted else nullcontext()

        return ClientReading(self._model.reading(room), ready)

    def release(self, client: str) -> None:
        """Forget all passes of a client."""
        for key in [key for key in self._held if key[0] == client]:
            self._held.pop(key).joint.open -= 1

    def held(self, client: str) -> int:
        """Return how many passes of a client are held."""
        return self.held_by(client)[0]

    def held_by(self, client: str) -> tuple[int, int]:
        """Return how many passes of a client are held, and how many tokens they have, padding included."""
        own = [held for key, held in self._held.items() if key[0] == client]
        return len(own), sum(_tokens(held.given) for held in own)

    @contextmanager
    def _ready(self, entries: Sequence[Entry]) -> Iterator[list[tuple[int, int]]]:
        """Apply dropout as the entries want it; gives the sizes of its pieces, to be changed."""
        seeds = [manner.dropout for _, _, _, manner in entries if manner.dropout is not None]
        if not seeds or not entries[0][3].adapted:
            yield []
            return
        with self._lora.training_each(seeds) as sizes:
            yield sizes

    @contextmanager
    def _bound(self, entries: Sequence[Entry], rows: Sequence[int]) -> Iterator[None]:
        """Use the entries' adapters for a batch of `rows` samples each."""
        if not entries[0][3].adapted:
            yield
            return
        each = [self._parameters(client, manner) for client, _, _, manner in entries]
        if len(each) == 1:
            with self._lora.bound(each[0]):
                yield
            return
        device = self.rows.bank.rows.device
        owners = torch.arange(len(rows), device=device).repeat_interleave(torch.tensor(rows, device=device))
        with self._lora.bound({name: torch.stack([one[name] for one in each]) for name in each[0]}, owners):
            yield

    def _parameters(self, client: str, manner: Manner) -> Mapping[str, Tensor]:
        if manner.gradients:
            return self.rows.training(client).row.named
        return self.rows.parameters(client, best=manner.best)

    def _passed(self, entries: Sequence[Entry], given: Sequence[States], sizes: list[tuple[int, int]]) -> list[States]:
        manner, counts = entries[0][3], [len(states.rows) for states in given]
        rows, lengths = joined([states.rows for states in given]), [states.rows.shape[1] for states in given]
        starts, first, cache = [states.start for states in given if states.start is not None], None, None
        if starts:
            sizes[:] = [(1, start.shape[1]) for start in starts]
            with self._bound(entries, [1] * len(starts)):
                first, cache = self._model.started(torch.cat(starts))
        sizes[:] = list(zip(counts, lengths, strict=True))
        with self._bound(entries, counts):
            if manner.causal:
                repeats = counts[0] if len(counts) == 1 else torch.tensor(counts, device=rows.device)
                behind = self._model.behind(rows, cache, repeats)
            else:
                behind = self._model.through(rows, joined([states.present for states in given]).long())
        results = [piece[:, :length] for piece, length in zip(torch.split(behind, counts), lengths, strict=True)]
        return [
            States(result, states.present, None if first is None else first[place : place + 1])
            for place, (result, states) in enumerate(zip(results, given, strict=True))
        ]


def manner_key(given: States, manner: Manner) -> tuple[object, ...]:
    """Return what passes must have in common to be computed together."""
    start = None if given.start is None else given.start.shape[1]
    return (manner.causal, manner.adapted, manner.dropout is None, manner.gradients, start)


def joined(tensors: Sequence[Tensor]) -> Tensor:
    """Return rows [n_i, length_i, ...] one below the other, filled with zeros to the longest."""
    longest = max(tensor.shape[1] for tensor in tensors)
    if all(tensor.shape[1] == longest for tensor in tensors):
        return torch.cat(list(tensors)) if len(tensors) > 1 else tensors[0]
    return torch.cat([F.pad(t, (0, 0) * (t.dim() - 2) + (0, longest - t.shape[1])) for t in tensors])


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


def _leaves(given: States) -> States:
    start = None if given.start is None else given.start.detach().requires_grad_()
    return States(given.rows.detach().requires_grad_(), given.present, start)


def _tokens(states: States) -> int:
    return states.present.numel() + (0 if states.start is None else states.start.shape[1])


def _detached(states: States) -> States:
    return States(states.rows.detach(), states.present, None if states.start is None else states.start.detach())


def _gradient_of(leaf: Tensor) -> Tensor:
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
