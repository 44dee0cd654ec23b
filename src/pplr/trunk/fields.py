"""What parties say to each other in the fields of frames, and what one party may ask for."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pplr.trunk.codecs import Codec
from pplr.trunk.frames import FRAME_BYTES, Frame, Kind, WireError


class Limits(BaseModel):
    """What one session may ask for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    frame_bytes: int = Field(FRAME_BYTES, ge=4096, le=2**30, description="Bytes of a frame.")
    rows: int = Field(4096, ge=1, description="Sequences of one pass or reading.")
    tokens: int = Field(65_536, ge=1, description="Tokens of one pass, padding included.")
    length: int = Field(8192, ge=1, description="Tokens of one sequence, with the start that it continues.")
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
        decoder: causal passes, their starts, and readings are allowed; passes with a mask always are.
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


class Fields(BaseModel):
    """What the frames of one kind say."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Agreement(Fields):
    """What makes two parties' numbers fit: both derive it from their configuration and their model."""

    settings: str = Field(max_length=64)
    model: str = Field(max_length=128)
    bottom: int = Field(ge=0, le=1000)
    top: int = Field(ge=1, le=1000)


class HelloFields(Fields):
    """First frame of a session. Who speaks is in the certificate, not here."""

    agreement: Agreement
    run: str = Field(max_length=64)
    codec: str = Field(max_length=16)
    bucket: int = Field(ge=1, le=65536)
    clients: list[str] | None = Field(None, max_length=10_000)
    forgotten: list[str] = Field([], max_length=10_000)
    fresh: bool = False


class WelcomeFields(Fields):
    """The server's answer: where it stands."""

    width: int
    round: int
    steps: int
    limits: Limits


class RoundFields(Fields):
    """A number of a round."""

    round: int = Field(ge=0, le=10**9)


class PassFields(Fields):
    """A forward pass."""

    rows: int = Field(ge=1)
    length: int = Field(ge=1)
    start: int = Field(ge=0)
    causal: bool
    adapted: bool
    dropout: int | None = Field(ge=0, lt=2**63)
    gradients: bool
    best: bool


class BackwardFields(Fields):
    """The gradient for what came of a pass, which was the request of that number."""

    of: int = Field(ge=0)
    start: int = Field(ge=0)
    rows: int = Field(ge=1)
    length: int = Field(ge=1)


class StepFields(Fields):
    """A step of the optimiser."""

    step: int = Field(ge=1, le=10**9)
    rate: float = Field(ge=0, le=1e3)
    factor: float = Field(ge=0, le=1)


class ReadFields(Fields):
    """New tokens for a reading; the first read of a reading opens it."""

    reading: int = Field(ge=0)
    room: int = Field(ge=0)
    adapted: bool
    best: bool
    rows: int = Field(ge=1)
    new: int = Field(ge=1)
    all: int = Field(ge=1)
    full: bool


class ShiftFields(Fields):
    """Rows of a reading that are copied and dropped."""

    reading: int = Field(ge=0)
    moves: list[tuple[int, int]]
    rows: int = Field(ge=1)


class SpreadFields(Fields):
    """A reading's only row becomes several."""

    reading: int = Field(ge=0)
    rows: int = Field(ge=1)
    room: int = Field(ge=0)


class ReadingFields(Fields):
    """A reading that is closed."""

    reading: int = Field(ge=0)


class WithoutFields(Fields):
    """A round goes on without some clients."""

    round: int = Field(ge=0, le=10**9)
    clients: list[str] = Field(max_length=10_000)


class GramFields(Fields):
    """Inner products of rows, or of their updates."""

    updates: bool


class Nothing(Fields):
    """No fields."""


FIELDS: dict[Kind, type[Fields]] = {
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
    Kind.WITHOUT: WithoutFields,
    Kind.GRAM: GramFields,
    Kind.MIX: RoundFields,
    Kind.SAVE: RoundFields,
    Kind.RESTORE: RoundFields,
}
"""What the requests of each kind say."""

COORDINATORS = frozenset({Kind.BEGIN, Kind.WITHOUT, Kind.GRAM, Kind.MIX, Kind.SAVE, Kind.RESTORE})
"""Requests that only the coordinator may send."""

CLIENTS = frozenset(FIELDS) - COORDINATORS - {Kind.HELLO}
"""Requests that only a client may send."""


def fields_of(frame: Frame) -> Fields:
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


F = TypeVar("F", bound=Fields)


def _parsed(model: type[F], frame: Frame) -> F:
    try:
        return model.model_validate_json(json.dumps(frame.fields))
    except ValidationError as problem:
        first = problem.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise WireError(f"A frame of kind {frame.kind} is not as agreed: {place}: {first['msg']}.") from problem
