"""The channel to a party's server, with mutual TLS, and what an answer that is none means."""

from __future__ import annotations

import grpc

from pplr.errors import CheckpointError, RunError
from pplr.pki import Party
from pplr.trunk.frames import FRAME_BYTES

TRUNK = "trunk's server"
"""How sentences call the server of a split model."""

OPTIONS = [
    ("grpc.max_receive_message_length", FRAME_BYTES),
    ("grpc.max_send_message_length", FRAME_BYTES),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    (
        "grpc.min_reconnect_backoff_ms",
        10_000,
    ),  # what it really sets: how long one try to connect, with its TLS, may take
    ("grpc.max_reconnect_backoff_ms", 2000),
]


def secure_channel(address: str, party: Party) -> grpc.Channel:
    """Return a channel with mutual TLS."""
    credentials = grpc.ssl_channel_credentials(party.authority, party.key, party.certificate)
    return grpc.secure_channel(address, credentials, options=OPTIONS)


def lasting(problem: Exception, address: str, server: str = TRUNK) -> RunError | None:
    """Return the error if it is no use to try again; sentences call the other end `server`."""
    if not isinstance(problem, grpc.Call):
        return None
    code, details = problem.code(), details_of(problem)
    if code is grpc.StatusCode.UNAVAILABLE:
        if "SSL_ERROR_SSL" in details:  # TLS itself said no; a handshake that was cut off or too slow is tried again
            return RunError(
                f"The {server} at {address} and this party do not accept each other's certificates ({details}). "
                "Make both with the same `pplr pki`, and name the server's address in its certificate (--host)."
            )
        return None
    if code is grpc.StatusCode.DEADLINE_EXCEEDED or "Concurrent RPC limit" in details:
        return None
    if code is grpc.StatusCode.PERMISSION_DENIED:
        return RunError(f"The {server} at {address} does not let this party in: {details}")
    kind = CheckpointError if code is grpc.StatusCode.DATA_LOSS else RunError
    return kind(f"The {server} at {address} ended the session: {details}")


def why_refused(problem: Exception, address: str) -> RunError:
    """Return what a party is told that a trunk's server at `address` has not answered."""
    return lasting(problem, address) or RunError(
        f"The trunk's server at {address} does not answer ({details_of(problem)}). Is it running, and is this its address?"
    )


def details_of(problem: Exception) -> str:
    """Return what gRPC says of a problem."""
    return str(problem.details()) if isinstance(problem, grpc.Call) else str(problem)
