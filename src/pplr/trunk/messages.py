"""Requests, checked against the contract of the session.

Every request that reaches the server's work has come through `request`: its numbers are in range, its tensors have
the shapes and types that its fields announce, and all states are finite.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pplr.models.causal.interface import Sight
from pplr.trunk.codecs import unpacked
from pplr.trunk.fields import (
    BackwardFields,
    Contract,
    PassFields,
    ReadFields,
    ShiftFields,
    SpreadFields,
    fields_of,
)
from pplr.trunk.frames import Frame, Kind, WireError
from pplr.trunk.payload import bits_in, counts_in, exact_tensors, only_tensors, states_in
from pplr.trunk.work import Manner, States


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
        only_tensors(frame, size)
        return Request(frame.kind, frame.number, fields, states=states)
    if isinstance(fields, ReadFields):
        return _read(frame, fields, contract)
    if isinstance(fields, ShiftFields | SpreadFields) and fields.rows > contract.limits.rows:
        raise WireError(f"A reading is to have {fields.rows:,} rows, and {contract.limits.rows:,} are allowed.")
    if isinstance(fields, SpreadFields) and fields.rows * fields.room > contract.limits.held_tokens:
        raise WireError("A reading is to leave more room than a client may hold. Ask for fewer users at once.")
    if frame.kind is Kind.MIX:
        (matrix,) = exact_tensors(frame, matrix=((contract.clients, contract.clients), torch.float64))
        if not bool(torch.isfinite(matrix).all()):
            raise WireError("A mixing matrix holds numbers that are not finite.")
        return Request(frame.kind, frame.number, fields, matrix=matrix)
    exact_tensors(frame)
    return Request(frame.kind, frame.number, fields)


def _pass(frame: Frame, fields: PassFields, contract: Contract) -> Request:
    if (fields.causal and not contract.decoder) or (fields.start and not fields.causal):
        raise WireError("A pass is causal where the model is no decoder, or has a start without being causal.")
    if fields.gradients and (fields.best or not fields.adapted):
        raise WireError("A pass wants gradients of adapters that are not trained.")
    size, states = _sized(frame, fields, contract, allowed={"present"})
    only_tensors(frame, size)
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
    if fields.length + fields.start > limits.length:
        raise WireError(
            f"A sequence has {fields.length + fields.start:,} tokens, and {limits.length:,} are allowed. Shorten the "
            "histories (backbone.prompt_tokens or backbone.history_tokens)."
        )
    present = bits_in(frame, "present", (fields.rows, fields.length))
    names = {"present"}
    rows, used = states_in(frame, "rows", int(present.sum()), contract)
    names |= used
    start = None
    if fields.start:
        first, used = states_in(frame, "start", fields.start, contract)
        start, names = first[None], names | used
    return names, States(unpacked(rows, present), present, start)


def _read(frame: Frame, fields: ReadFields, contract: Contract) -> Request:
    limits = contract.limits
    if not contract.decoder:
        raise WireError("An encoder has no readings.")
    if fields.rows > limits.rows or fields.rows * fields.all * (fields.new if fields.full else 1) > limits.tokens * 64:
        raise WireError("A reading has more rows or tokens than are allowed. Ask for fewer users at once.")
    if (
        fields.rows * fields.new > limits.tokens
        or not fields.new <= fields.all <= limits.length + fields.new
        or fields.room > limits.length
    ):
        raise WireError("A reading has more new tokens than are allowed. Ask for fewer users at once.")
    states, names = states_in(frame, "rows", fields.rows * fields.new, contract)
    shape = (fields.rows, fields.new)
    positions = counts_in(frame, "positions", shape)
    if fields.full:
        full = bits_in(frame, "full", (fields.rows * fields.new, fields.all)).reshape(fields.rows, 1, fields.new, -1)
        sight = Sight(full=full, keys=counts_in(frame, "keys", (fields.rows, fields.all)))
        names |= {"positions", "full", "keys"}
    else:
        sight = Sight(bits_in(frame, "seen", (fields.rows, fields.all)))
        names |= {"positions", "seen"}
    only_tensors(frame, names)
    read = (states.reshape(*shape, contract.width), positions, sight)
    return Request(frame.kind, frame.number, fields, read=read)
