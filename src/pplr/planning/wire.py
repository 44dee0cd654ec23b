"""Bytes that travel, by writing the very frames: they are filled with zeros, and have the sizes of real ones.

TLS and HTTP/2 around the frames, which add less than a hundredth, are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pplr.models.causal.interface import Sight
from pplr.planning.batch import Batch, Reading
from pplr.trunk.fields import BackwardFields, Contract, PassFields, ReadFields, ReadingFields, StepFields
from pplr.trunk.frames import Frame, Kind, encoded
from pplr.trunk.payload import plain_tensors, read_tensors, state_tensors
from pplr.trunk.work import States

_NUMBER = 1000
"""Of a request, and of steps: as many digits as most have."""

_SEED = 2**62


@dataclass(frozen=True)
class Traffic:
    """Bytes of frames, and how often a client waits for an answer.

    Attributes:
        up: to the server.
        down: from it.
        waits: answers that are waited for one after the other.
    """

    up: int
    down: int
    waits: int

    @property
    def total(self) -> int:
        """Bytes in both directions."""
        return self.up + self.down


def step_traffic(batch: Batch, contract: Contract) -> Traffic:
    """Return the bytes of a training step: states and their gradients, there and back, and the step itself."""
    up, down = [_frame(Kind.STEP, StepFields(step=_NUMBER, rate=0.003, factor=0.12345678901234567))], []
    for rows in batch.pieces:
        given = _states(rows, batch.length, batch.start, contract.width)
        sizes = {"rows": rows, "length": batch.length, "start": batch.start}
        passed = PassFields(**sizes, causal=batch.causal, adapted=True, dropout=_SEED, gradients=True, best=False)
        up += [
            _frame(Kind.FORWARD, passed, state_tensors(given, contract, present=True)),
            _frame(Kind.BACKWARD, BackwardFields(of=_NUMBER, **sizes), state_tensors(given, contract, present=True)),
        ]
        back = state_tensors(given, contract, present=False)
        down += [_answer(Kind.STATES, back), _answer(Kind.GRADIENT, back, squared_norm=0.12345678901234567)]
    return Traffic(_bytes(up), _bytes(down), 2)


def recommendation_traffic(reading: Reading, contract: Contract) -> Traffic:
    """Return the bytes of recommending to one user who asks alone.

    A decoder reads the prompt, and then the newest token of every beam, once per token of a title. Long titles that the
    catalogue leaves no choice in take fewer calls. An encoder reads the history; item vectors are with the client.
    """
    if not contract.decoder:
        given = _states(1, reading.prompt, 0, contract.width)
        passed = PassFields(
            rows=1, length=reading.prompt, start=0, causal=False, adapted=True, dropout=None, gradients=False, best=True
        )
        up = [_frame(Kind.FORWARD, passed, state_tensors(given, contract, present=True))]
        return Traffic(_bytes(up), _bytes([_answer(Kind.STATES, state_tensors(given, contract, present=False))]), 1)
    calls = [(reading.prompt, reading.prompt)]
    calls += [(reading.beams, reading.prompt + reading.beams * read) for read in range(1, reading.title + 1)]
    up = [_frame(Kind.CLOSE, ReadingFields(reading=1)), *(_read(new, all_, reading, contract) for new, all_ in calls)]
    down = [_answer(Kind.STATES, plain_tensors(torch.zeros(1, new, contract.width), contract)) for new, _ in calls]
    return Traffic(_bytes(up), _bytes(down), len(calls))


def _read(new: int, every: int, reading: Reading, contract: Contract) -> Frame:
    tree = every > new
    sight = Sight(seen=torch.ones(1, every, dtype=torch.bool))
    if tree:
        sight = Sight(full=torch.ones(1, 1, new, every, dtype=torch.bool), keys=torch.zeros(1, every, dtype=torch.long))
    fields = ReadFields(
        reading=1, room=8 * reading.beams, adapted=True, best=True, rows=1, new=new, all=every, full=tree
    )
    states, positions = torch.zeros(1, new, contract.width), torch.zeros(1, new, dtype=torch.long)
    return _frame(Kind.READ, fields, read_tensors(states, positions, sight, contract))


def _states(rows: int, length: int, start: int, width: int) -> States:
    return States(
        torch.zeros(rows, length, width),
        torch.ones(rows, length, dtype=torch.bool),
        torch.zeros(1, start, width) if start else None,
    )


def _frame(kind: Kind, fields: Any, tensors: Mapping[str, Tensor] | None = None) -> Frame:
    return Frame(kind, _NUMBER, fields.model_dump(), tensors or {})


def _answer(kind: Kind, tensors: Mapping[str, Tensor], **fields: Any) -> Frame:
    return Frame(kind, _NUMBER, {"steps": _NUMBER, **fields}, tensors)


def _bytes(frames: Iterable[Frame]) -> int:
    return sum(len(encoded(frame)) for frame in frames)
