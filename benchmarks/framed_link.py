"""A client's link to a trunk's server that is not there: frames are written, read, checked, and come back unchanged.

The link is the real one, and so are the frames and their checks. A client's process is then all there is to measure.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any, cast

from torch import Tensor

from pplr.trunk.connection import Connection
from pplr.trunk.fields import Contract
from pplr.trunk.frames import Frame, Kind, decoded, encoded
from pplr.trunk.messages import Request, request
from pplr.trunk.meter import Meter
from pplr.trunk.payload import plain_tensors, state_tensors
from pplr.trunk.remote import RemoteLink

_NORM = 0.12345678901234567


class Echo:
    """Answers as a server does whose trunk has no layers.

    Attributes:
        meter: the bytes of all frames.
    """

    def __init__(self, contract: Contract) -> None:
        self.meter = Meter()
        self._contract = contract
        self._numbers = 0
        self._steps = 0

    def ask(
        self, kind: Kind, fields: Mapping[str, Any], tensors: Mapping[str, Tensor] | None = None, **_: Any
    ) -> tuple[int, Future[Frame]]:
        """Take a request, and return its number and its answer."""
        self._numbers += 1
        data = encoded(Frame(kind, self._numbers, fields, tensors or {}))
        self.meter.count("up", kind, len(data))
        answer: Future[Frame] = Future()
        back = self._answer(request(decoded(data), self._contract))
        if back is not None:
            written = encoded(back)
            self.meter.count("down", back.kind, len(written))
            answer.set_result(decoded(written))
        return self._numbers, answer

    def _answer(self, asked: Request) -> Frame | None:
        if asked.kind is Kind.STEP:
            self._steps = asked.fields.step
        if asked.kind in (Kind.STEP, Kind.SHIFT, Kind.SPREAD, Kind.CLOSE):
            return None
        fields: dict[str, Any] = {"steps": self._steps}
        if asked.read is not None:
            return Frame(Kind.STATES, asked.number, fields, plain_tensors(asked.read[0], self._contract))
        if asked.states is None:
            return Frame(Kind.DONE, asked.number, fields)
        back = state_tensors(asked.states, self._contract, present=False)
        if asked.kind is Kind.FORWARD:
            return Frame(Kind.STATES, asked.number, fields, back)
        return Frame(Kind.GRADIENT, asked.number, fields | {"squared_norm": _NORM}, back)


def framed_link(contract: Contract) -> tuple[RemoteLink, Meter]:
    """Return a client's link to an echo, and the meter of its frames."""
    echo = Echo(contract)
    return RemoteLink(cast("Connection", echo), lambda _: contract), echo.meter
