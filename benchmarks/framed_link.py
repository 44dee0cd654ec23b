"""A client's way to its trunk that writes and reads every frame, and has no network between.

With no trunk behind it states come back as they were sent: a client's process is then all there is to measure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from pplr.models.causal.interface import Sight
from pplr.models.parts.passing import TrunkReading
from pplr.trunk.frames import Frame, Kind, decoded, encoded
from pplr.trunk.messages import (
    BackwardFields,
    Contract,
    PassFields,
    ReadFields,
    ReadingFields,
    Request,
    ShiftFields,
    SpreadFields,
    StepFields,
    plain_states,
    plain_tensors,
    read_tensors,
    received_states,
    request,
    state_tensors,
)
from pplr.trunk.meter import Meter
from pplr.trunk.stub import Link
from pplr.trunk.work import Manner, States, TrunkWork


class FramedLink(Link):
    """See the module's text.

    Attributes:
        meter: the bytes of all frames.
    """

    def __init__(self, contract: Contract, work: TrunkWork | None = None, client: str = "client") -> None:
        self.meter = Meter()
        self.contract = contract
        self._work = work
        self._client = client
        self._numbers = 0
        self._steps = 0
        self._gradients: dict[int, States] = {}

    def forward(self, number: int, given: States, manner: Manner) -> Callable[[], States]:
        """Send states."""
        rows, length = given.present.shape
        fields = PassFields(
            rows=rows,
            length=length,
            start=_length(given.start),
            causal=manner.causal,
            adapted=manner.adapted,
            dropout=manner.dropout,
            gradients=manner.gradients,
            best=manner.best,
        )
        asked = self.ask(Kind.FORWARD, fields, state_tensors(given, self.contract, present=True))
        if asked.states is None or asked.manner is None:
            raise RuntimeError("A pass came without its states.")
        result = asked.states
        if self._work is not None:
            result = self._work.forward(self._client, number, asked.states, asked.manner)
        back = self.answer(Kind.STATES, state_tensors(result, self.contract, present=False))
        behind = received_states(back, given.present, _length(given.start), self.contract)
        return lambda: behind

    def backward(self, number: int, gradient: States) -> None:
        """Send the gradient for what came of a pass."""
        rows, length = gradient.present.shape
        fields = BackwardFields(of=number, rows=rows, length=length, start=_length(gradient.start))
        asked = self.ask(Kind.BACKWARD, fields, state_tensors(gradient, self.contract, present=True))
        if asked.states is None:
            raise RuntimeError("A gradient came without its states.")
        found, norm = asked.states, 0.12345678901234567
        if self._work is not None:
            found = self._work.backward(self._client, number, asked.states)
            norm = self._work.rows.training(self._client).squared_norm()
        back = self.answer(Kind.GRADIENT, state_tensors(found, self.contract, present=False), squared_norm=norm)
        self._gradients[number] = received_states(back, gradient.present, _length(gradient.start), self.contract)

    def gradient(self, number: int) -> States:
        """Return the gradient for what a pass was given."""
        return self._gradients.pop(number)

    def reading(self, room: int, *, adapted: bool, best: bool) -> TrunkReading:
        """Return a reading that has read nothing."""
        self._numbers += 1
        inner = None if self._work is None else self._work.reading(self._client, room, adapted=adapted, best=best)
        return FramedReading(self, inner, ReadFields(
            reading=self._numbers, room=room, adapted=adapted, best=best, rows=1, new=1, all=1, full=False
        ))  # fmt: skip

    def start(self, round_number: int) -> None:
        """Begin to train."""
        if self._work is not None:
            self._work.rows.start(self._client, round_number)

    def squared_norm(self) -> float:
        """Return the squared norm of the gradient of the trunk's part of the row."""
        return 0.0 if self._work is None else self._work.rows.training(self._client).squared_norm()

    def step(self, number: int, rate: float, factor: float) -> None:
        """Have a step taken."""
        self._steps = number
        self.ask(Kind.STEP, StepFields(step=number, rate=rate, factor=factor), {})
        if self._work is not None:
            self._work.rows.step(self._client, number, rate, factor)

    def finish(self) -> None:
        """Put what was trained in its place."""
        if self._work is not None:
            self._work.rows.finish(self._client)

    def keep(self) -> None:
        """Remember the trunk's part of the row."""
        if self._work is not None:
            self._work.rows.keep(self._client)

    def ask(self, kind: Kind, fields: Any, tensors: Mapping[str, Tensor]) -> Request:
        """Send a request, and return what the other end makes of it."""
        self._numbers += 1
        data = encoded(Frame(kind, self._numbers, fields.model_dump(), tensors))
        self.meter.count("up", kind, len(data))
        return request(decoded(data), self.contract)

    def answer(self, kind: Kind, tensors: Mapping[str, Tensor], **fields: Any) -> Frame:
        """Send an answer, and return it as it arrives."""
        data = encoded(Frame(kind, self._numbers, {"steps": self._steps, **fields}, tensors))
        self.meter.count("down", kind, len(data))
        return decoded(data)


class FramedReading(TrunkReading):
    """A reading whose tokens travel in frames."""

    def __init__(self, link: FramedLink, inner: TrunkReading | None, fields: ReadFields) -> None:
        self._link = link
        self._inner = inner
        self._fields = fields

    def read(self, states: Tensor, positions: Tensor, sight: Sight) -> Tensor:
        """Return the states behind the trunk."""
        rows, new = positions.shape
        every = sight.seen.shape[1] if sight.keys is None else sight.keys.shape[1]
        seen = replace(sight, seen=F.pad(sight.seen, (0, every - sight.seen.shape[1]), value=True))
        fields = self._fields.model_copy(
            update={"rows": rows, "new": new, "all": every, "full": sight.full is not None}
        )
        tensors = read_tensors(states, positions, seen, self._link.contract)
        asked = self._link.ask(Kind.READ, fields, tensors)
        if asked.read is None:
            raise RuntimeError("A reading came without its states.")
        found = asked.read[0]
        if self._inner is not None:
            found = self._inner.read(found, asked.read[1], sight)
        back = self._link.answer(Kind.STATES, plain_tensors(found, self._link.contract))
        return plain_states(back, (rows, new), self._link.contract)

    def keep(self, moves: list[tuple[int, int]], rows: int) -> None:
        """Keep some rows."""
        self._link.ask(Kind.SHIFT, ShiftFields(reading=self._fields.reading, moves=moves, rows=rows), {})
        if self._inner is not None:
            self._inner.keep(moves, rows)

    def spread(self, rows: int, room: int) -> None:
        """Give the only row to all."""
        self._link.ask(Kind.SPREAD, SpreadFields(reading=self._fields.reading, rows=rows, room=room), {})
        if self._inner is not None:
            self._inner.spread(rows, room)

    def close(self) -> None:
        """End the reading."""
        self._link.ask(Kind.CLOSE, ReadingFields(reading=self._fields.reading), {})


def _length(start: Tensor | None) -> int:
    return 0 if start is None else int(start.shape[1])
