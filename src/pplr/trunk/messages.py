"""What the frames of each kind say, checked against the contract of the session.

Every request that reaches the server's work has come through `request`: its numbers are in range, its tensors have
the shapes and types that its fields announce, and all states are finite.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from pplr.errors import RunError
from pplr.models.causal.interface import Sight
from pplr.trunk.codecs import Codec, packed, unpacked
from pplr.trunk.frames import FRAME_BYTES, Frame, Kind, WireError
from pplr.trunk.work import Manner, States


class Limits(BaseModel):
    """What one session may ask for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    frame_bytes: int = Field(FRAME_BYTES, ge=4096, le=2**30, description="Bytes of a frame.")
    rows: int = Field(4096, ge=1, description="Sequences of one pass or reading.")
    tokens: int = Field(65_536, ge=1, description="Tokens of one pass, padding included.")
    passes: int = Field(16, ge=1, description="Passes of a client whose gradient is still to come.")
    held_tokens: int = Field(262_144, ge=1, description="Tokens of these passes, and of all readings, of a client.")
    readings: int = Field(8, ge=1, description="Open readings of a client.")
    waiting: int = Field(8, ge=1, description="Requests of a session that wait; more are left on the wire.")
    idle_seconds: float = Field(600.0, gt=0, description="A session that says nothing for so long is ended.")
    sessions: int = Field(256, ge=1, description="Sessions at once.")


@dataclass(frozen=True)
class Contract:
    """What both ends of a session have agreed on.

    Attributes:
        width: numbers of a hidden state.
        decoder: causal passes, readings and starts are allowed, and no others; an encoder's are the opposite.
        codec: how states travel.
        bucket: states are filled up to a multiple of so many tokens.
        limits: what may be asked for.
        clients: how many rows there are.
    """

    width: int
    decoder: bool
    codec: Codec
    bucket: int
    limits: Limits
    clients: int = 1


class _Fields(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Agreement(_Fields):
    """What makes two parties' numbers fit: both derive it from their configuration and their model."""

    settings: str = Field(max_length=64)
    model: str = Field(max_length=128)
    bottom: int = Field(ge=0, le=1000)
    top: int = Field(ge=1, le=1000)


class HelloFields(_Fields):
    """First frame of a session. Who speaks is in the certificate, not here."""

    agreement: Agreement
    run: str = Field(max_length=64)
    codec: str = Field(max_length=16)
    bucket: int = Field(ge=1, le=65536)
    clients: list[str] | None = Field(None, max_length=10_000)
    fresh: bool = False


class WelcomeFields(_Fields):
    """The server's answer: where it stands."""

    width: int
    round: int
    steps: int
    limits: Limits


class RoundFields(_Fields):
    """A number of a round."""

    round: int = Field(ge=0, le=10**9)


class PassFields(_Fields):
    """A forward pass."""

    rows: int = Field(ge=1)
    length: int = Field(ge=1)
    start: int = Field(ge=0)
    causal: bool
    adapted: bool
    dropout: int | None = Field(ge=0, lt=2**63)
    gradients: bool
    best: bool


class BackwardFields(_Fields):
    """The gradient for what came of a pass, which was the request of that number."""

    of: int = Field(ge=0)
    start: int = Field(ge=0)
    rows: int = Field(ge=1)
    length: int = Field(ge=1)


class StepFields(_Fields):
    """A step of the optimiser."""

    step: int = Field(ge=1, le=10**9)
    rate: float = Field(ge=0, le=1e3)
    factor: float = Field(ge=0, le=1)


class ReadFields(_Fields):
    """New tokens for a reading; the first read of a reading opens it."""

    reading: int = Field(ge=0)
    room: int = Field(ge=0)
    adapted: bool
    best: bool
    rows: int = Field(ge=1)
    new: int = Field(ge=1)
    all: int = Field(ge=1)
    full: bool


class ShiftFields(_Fields):
    """Rows of a reading that are copied and dropped."""

    reading: int = Field(ge=0)
    moves: list[tuple[int, int]]
    rows: int = Field(ge=1)


class SpreadFields(_Fields):
    """A reading's only row becomes several."""

    reading: int = Field(ge=0)
    rows: int = Field(ge=1)
    room: int = Field(ge=0)


class ReadingFields(_Fields):
    """A reading that is closed."""

    reading: int = Field(ge=0)


class GramFields(_Fields):
    """Inner products of rows, or of their updates."""

    updates: bool


class Nothing(_Fields):
    """No fields."""


FIELDS: dict[Kind, type[_Fields]] = {
    Kind.HELLO: HelloFields,
    Kind.START: RoundFields,
    Kind.FORWARD: PassFields,
    Kind.BACKWARD: BackwardFields,
    Kind.STEP: StepFields,
    Kind.FINISH: Nothing,
    Kind.KEEP: Nothing,
    Kind.READ: ReadFields,
    Kind.SHIFT: ShiftFields,
    Kind.SPREAD: SpreadFields,
    Kind.CLOSE: ReadingFields,
    Kind.BEGIN: RoundFields,
    Kind.GRAM: GramFields,
    Kind.MIX: RoundFields,
    Kind.SAVE: RoundFields,
    Kind.RESTORE: RoundFields,
}
"""What the requests of each kind say."""

COORDINATORS = frozenset({Kind.BEGIN, Kind.GRAM, Kind.MIX, Kind.SAVE, Kind.RESTORE})
"""Requests that only the coordinator may send."""

CLIENTS = frozenset(FIELDS) - COORDINATORS - {Kind.HELLO}
"""Requests that only a client may send."""


@dataclass(frozen=True)
class Request:
    """A request that keeps the contract.

    Attributes:
        kind: what is asked.
        number: of the request.
        fields: of the kind.
        states: of a forward or backward pass.
        manner: of a forward pass.
        read: states [rows, new, width], positions [rows, new] and sight of a reading.
        matrix: [clients, clients] float64 of a mixing.
    """

    kind: Kind
    number: int
    fields: Any
    states: States | None = None
    manner: Manner | None = None
    read: tuple[Tensor, Tensor, Sight] | None = None
    matrix: Tensor | None = None

    @property
    def tokens(self) -> int:
        """Tokens that are computed or held for this request, padding included."""
        if self.states is not None:
            start = 0 if self.states.start is None else self.states.start.shape[1]
            return self.states.present.numel() + start
        return 0 if self.read is None else self.read[1].numel()


def request(frame: Frame, contract: Contract) -> Request:
    """Return what a frame asks for.

    Raises:
        WireError: it breaks the contract.
    """
    fields = fields_of(frame)
    if isinstance(fields, PassFields):
        return _pass(frame, fields, contract)
    if isinstance(fields, BackwardFields):
        size, states = _sized(frame, fields, contract, allowed={"present"})
        _only(frame, size)
        return Request(frame.kind, frame.number, fields, states=states)
    if isinstance(fields, ReadFields):
        return _read(frame, fields, contract)
    if isinstance(fields, ShiftFields | SpreadFields) and fields.rows > contract.limits.rows:
        raise WireError(f"A reading is to have {fields.rows:,} rows, and {contract.limits.rows:,} are allowed.")
    if isinstance(fields, SpreadFields) and fields.rows * fields.room > contract.limits.held_tokens:
        raise WireError("A reading is to leave more room than a client may hold. Ask for fewer users at once.")
    if frame.kind is Kind.MIX:
        (matrix,) = _exact(frame, matrix=((contract.clients, contract.clients), torch.float64))
        if not bool(torch.isfinite(matrix).all()):
            raise WireError("A mixing matrix holds numbers that are not finite.")
        return Request(frame.kind, frame.number, fields, matrix=matrix)
    _exact(frame)
    return Request(frame.kind, frame.number, fields)


def fields_of(frame: Frame) -> _Fields:
    """Return the fields of a request.

    Raises:
        WireError: the frame is no request, or says something else than its kind allows.
    """
    model = FIELDS.get(frame.kind)
    if model is None:
        raise WireError(f"A frame of kind {frame.kind} is no request.")
    return _parsed(model, frame)


def welcome_of(frame: Frame) -> WelcomeFields:
    """Return what the server says at the beginning of a session.

    Raises:
        WireError: it says something else.
    """
    return _parsed(WelcomeFields, frame)


F = TypeVar("F", bound=_Fields)


def _parsed(model: type[F], frame: Frame) -> F:
    try:
        return model.model_validate_json(json.dumps(frame.fields))
    except ValidationError as problem:
        first = problem.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise WireError(f"A frame of kind {frame.kind} is not as agreed: {place}: {first['msg']}.") from problem


def _pass(frame: Frame, fields: PassFields, contract: Contract) -> Request:
    if fields.causal != contract.decoder or (fields.start and not contract.decoder):
        raise WireError("A pass is causal where the model is no decoder, or the other way round.")
    if fields.gradients and (fields.best or not fields.adapted):
        raise WireError("A pass wants gradients of adapters that are not trained.")
    size, states = _sized(frame, fields, contract, allowed={"present"})
    _only(frame, size)
    manner = Manner(fields.causal, fields.adapted, fields.dropout, fields.gradients, fields.best)
    return Request(frame.kind, frame.number, fields, states=states, manner=manner)


def _sized(
    frame: Frame, fields: PassFields | BackwardFields, contract: Contract, allowed: set[str]
) -> tuple[set[str], States]:
    """Return the names of the tensors that were used, and the states in them."""
    limits = contract.limits
    tokens = fields.rows * fields.length + fields.start
    if fields.rows > limits.rows or tokens > limits.tokens:
        raise WireError(
            f"A pass has {fields.rows:,} rows and {tokens:,} tokens; {limits.rows:,} and {limits.tokens:,} are allowed. "
            "Set training.batch_tokens lower."
        )
    present = _bits(frame, "present", (fields.rows, fields.length))
    names = {"present"}
    rows, used = _states(frame, "rows", int(present.sum()), contract)
    names |= used
    start = None
    if fields.start:
        first, used = _states(frame, "start", fields.start, contract)
        start, names = first[None], names | used
    return names, States(unpacked(rows, present), present, start)


def _read(frame: Frame, fields: ReadFields, contract: Contract) -> Request:
    limits = contract.limits
    if not contract.decoder:
        raise WireError("An encoder has no readings.")
    if fields.rows > limits.rows or fields.rows * fields.all * (fields.new if fields.full else 1) > limits.tokens * 64:
        raise WireError("A reading has more rows or tokens than are allowed. Ask for fewer users at once.")
    if fields.rows * fields.new > limits.tokens or fields.new > fields.all or fields.room > limits.tokens:
        raise WireError("A reading has more new tokens than are allowed. Ask for fewer users at once.")
    states, names = _states(frame, "rows", fields.rows * fields.new, contract)
    shape = (fields.rows, fields.new)
    positions = _counts(frame, "positions", shape)
    if fields.full:
        full = _bits(frame, "full", (fields.rows * fields.new, fields.all)).reshape(fields.rows, 1, fields.new, -1)
        sight = Sight(full=full, keys=_counts(frame, "keys", (fields.rows, fields.all)))
        names |= {"positions", "full", "keys"}
    else:
        sight = Sight(_bits(frame, "seen", (fields.rows, fields.all)))
        names |= {"positions", "seen"}
    _only(frame, names)
    read = (states.reshape(*shape, contract.width), positions, sight)
    return Request(frame.kind, frame.number, fields, read=read)


def _states(frame: Frame, name: str, tokens: int, contract: Contract) -> tuple[Tensor, set[str]]:
    filled = _filled(tokens, contract.bucket)
    prefix = name + "."
    own = {key.removeprefix(prefix): value for key, value in frame.tensors.items() if key.startswith(prefix)}
    try:
        states = contract.codec.decode(own, filled, contract.width)
    except RunError as problem:
        raise WireError(str(problem)) from problem
    return states[:tokens], {prefix + key for key in own}


def _filled(tokens: int, bucket: int) -> int:
    return -(-tokens // bucket) * bucket


def _bits(frame: Frame, name: str, shape: tuple[int, int]) -> Tensor:
    count = shape[0] * shape[1]
    tensor = frame.tensors.get(name)
    if tensor is None or tensor.dtype != torch.uint8 or tuple(tensor.shape) != (-(-count // 8),):
        raise WireError(f"A frame of kind {frame.kind} has no bits {name!r} for {shape[0]} x {shape[1]} tokens.")
    return torch.from_numpy(np.unpackbits(tensor.numpy(), count=count).astype(bool)).reshape(shape)


def _counts(frame: Frame, name: str, shape: tuple[int, ...]) -> Tensor:
    tensor = frame.tensors.get(name)
    if tensor is None or tensor.dtype != torch.int64 or tuple(tensor.shape) != shape:
        raise WireError(f"A frame of kind {frame.kind} has no whole numbers {name!r} of shape {shape}.")
    if bool((tensor < 0).any()) or bool((tensor >= 2**24).any()):
        raise WireError(f"A frame of kind {frame.kind} has {name!r} out of range.")
    return tensor


def _exact(frame: Frame, **wanted: tuple[tuple[int, ...], torch.dtype]) -> list[Tensor]:
    _only(frame, set(wanted))
    for name, (shape, dtype) in wanted.items():
        if name not in frame.tensors or tuple(frame.tensors[name].shape) != shape or frame.tensors[name].dtype != dtype:
            raise WireError(f"A frame of kind {frame.kind} has no {name!r} of shape {shape}.")
    return [frame.tensors[name] for name in wanted]


def _only(frame: Frame, names: set[str]) -> None:
    if more := set(frame.tensors) - names:
        raise WireError(f"A frame of kind {frame.kind} has a tensor {min(more)!r} that nobody asked for.")


def state_tensors(states: States, contract: Contract, *, present: bool) -> dict[str, Tensor]:
    """Return the tensors in which states travel; `present` only where the other end does not know it."""
    found = _encoded("rows", packed(states.rows, states.present), contract)
    if present:
        found["present"] = bits(states.present)
    if states.start is not None:
        found |= _encoded("start", states.start[0], contract)
    return found


def received_states(frame: Frame, present: Tensor, start: int, contract: Contract) -> States:
    """Return the states in an answer; `start` is the length of the start, 0 for none.

    Raises:
        WireError: they are not those of this pass.
    """
    rows, names = _states(frame, "rows", int(present.sum()), contract)
    first = None
    if start:
        states, used = _states(frame, "start", start, contract)
        first, names = states[None], names | used
    _only(frame, names)
    return States(unpacked(rows, present.cpu()), present, first)


def read_tensors(states: Tensor, positions: Tensor, sight: Sight, contract: Contract) -> dict[str, Tensor]:
    """Return the tensors in which new tokens of a reading travel."""
    found = _encoded("rows", states.flatten(0, 1), contract)
    found["positions"] = positions.cpu().long()
    if sight.full is not None and sight.keys is not None:
        return found | {"full": bits(sight.full.flatten(0, 2)), "keys": sight.keys.cpu().long()}
    return found if sight.seen is None else found | {"seen": bits(sight.seen)}


def plain_tensors(states: Tensor, contract: Contract) -> dict[str, Tensor]:
    """Return the tensors in which states [rows, new, width] of a reading travel back."""
    return _encoded("rows", states.flatten(0, 1), contract)


def matrix_of(frame: Frame, clients: int) -> Tensor:
    """Return the matrix [clients, clients] float64 in an answer.

    Raises:
        WireError: it is another one.
    """
    (matrix,) = _exact(frame, matrix=((clients, clients), torch.float64))
    if not bool(torch.isfinite(matrix).all()):
        raise WireError("A matrix of the trunk's server holds numbers that are not finite. Lower the learning rate.")
    return matrix


def plain_states(frame: Frame, shape: tuple[int, int], contract: Contract) -> Tensor:
    """Return states [rows, new, width] of a reading's answer."""
    states, names = _states(frame, "rows", shape[0] * shape[1], contract)
    _only(frame, names)
    return states.reshape(*shape, contract.width)


def bits(mask: Tensor) -> Tensor:
    """Return a mask as bits, eight to a byte."""
    return torch.from_numpy(np.packbits(mask.cpu().numpy().astype(bool)))


def _encoded(name: str, states: Tensor, contract: Contract) -> dict[str, Tensor]:
    filled = _filled(len(states), contract.bucket)
    if filled > len(states):
        states = torch.cat([states, states.new_zeros(filled - len(states), states.shape[1])])
    return {f"{name}.{key}": value for key, value in contract.codec.encode(states).items()}
