"""Whether a trunk's server is there and lets a party in."""

from __future__ import annotations

import time
from pathlib import Path

import grpc

from pplr.config import Config
from pplr.errors import ConfigError, RunError
from pplr.pki import Identity, Party, Role
from pplr.trunk.build import split_placement
from pplr.trunk.channel import secure_channel, why_refused

HEALTH = "/grpc.health.v1.Health/Check"
SERVING = b"\x08\x01"
"""The message HealthCheckResponse {status: SERVING} of grpc.health.v1."""

SECONDS = 10.0


def answer_seconds(config: Config, client: str | None, certificates: Path | None = None) -> tuple[str, float]:
    """Return the address of a configuration's server, and how long it took to answer a client (or the coordinator).

    `certificates` is the party's folder; the configuration's without.

    Raises:
        ConfigError: the configuration names no server, or the party has no certificate.
        RunError: it does not answer, or does not let the party in.
    """
    placement = split_placement(config)
    if placement.server is None:
        raise ConfigError("placement.server is not set: the layers between are in the run's own process.")
    identity = Identity(Role.COORDINATOR, "coordinator") if client is None else Identity(Role.CLIENT, client)
    party = Party.load(certificates or Path(placement.certificates), identity)
    with secure_channel(placement.server, party) as channel:
        started = time.perf_counter()
        try:
            answer = channel.unary_unary(HEALTH)(b"", timeout=SECONDS)
        except grpc.RpcError as problem:
            raise why_refused(problem, placement.server) from problem
        seconds = time.perf_counter() - started
    if answer != SERVING:
        raise RunError(f"What answers at {placement.server} is no trunk's server. Check placement.server.")
    return placement.server, seconds
