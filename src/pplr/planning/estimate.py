"""How long a training step takes when bottom and top are with a client and the trunk is with a server.

    client   operations / (peak x SHARE)          server   the same, of the trunk
    wire     bits of all frames / bandwidth       waits    2 round trips: states, gradients

One after the other these add up. With p pieces of a batch under way at once, client, server and wire work at the same
time, on different pieces: the slowest of them sets the pace, and of the others only one p-th is seen, before the first
piece arrives and behind the last.

    seconds = slowest + (client + server + wire - slowest) / p + 2 round trips
"""

from __future__ import annotations

from dataclasses import dataclass

from pplr.planning.wire import Traffic

SHARE = 0.7
"""Of a matrix product's speed that training reaches (docs/benchmarks.md, "Training the generative backbone")."""


@dataclass(frozen=True)
class Speeds:
    """What a plan is for.

    Attributes:
        client: floating-point operations a second of the client's matrix products.
        server: of the server's.
        bits: bits a second between them, taken as one line for both directions.
        round_trip: seconds from a question to the answer to nothing.
    """

    client: float
    server: float
    bits: float
    round_trip: float


@dataclass(frozen=True)
class StepTime:
    """Seconds of a step.

    Attributes:
        client: the client computes.
        server: the server computes.
        wire: frames are under way.
        waits: round trips.
        pieces: pieces under way at once.
    """

    client: float
    server: float
    wire: float
    waits: float
    pieces: int

    @property
    def total(self) -> float:
        """Seconds in all."""
        every = (self.client, self.server, self.wire)
        slowest = max(every)
        return slowest + (sum(every) - slowest) / self.pieces + self.waits


def step_time(client: float, server: float, traffic: Traffic, speeds: Speeds, pieces: int) -> StepTime:
    """Return the time of a step of `client` and `server` floating-point operations."""
    return StepTime(
        client / (speeds.client * SHARE),
        server / (speeds.server * SHARE),
        8 * traffic.total / speeds.bits,
        traffic.waits * speeds.round_trip,
        pieces,
    )
