"""The door of a server: where it listens, and who comes in. Both ends show certificates of the same authority."""

from __future__ import annotations

from typing import Any

import grpc
import grpc.aio

from pplr.errors import ConfigError
from pplr.pki import Identity, Party, Revocations


def opened(server: grpc.aio.Server, address: str, party: Party) -> int:
    """Let a server listen at host:port, and return the port; 0 is any that is free.

    Raises:
        ConfigError: the address cannot be had.
    """
    credentials = grpc.ssl_server_credentials(
        [(party.key, party.certificate)], root_certificates=party.authority, require_client_auth=True
    )
    try:
        return int(server.add_secure_port(address, credentials))
    except RuntimeError as problem:
        raise ConfigError(
            f"The server cannot listen at {address}: is another one there? Choose another port."
        ) from problem


def caller(context: Any, revocations: Revocations) -> Identity:
    """Return who is at the other end of a call.

    Raises:
        RunError: its certificate was revoked, also since it came.
    """
    (certificate,) = context.auth_context()["x509_pem_cert"]
    return revocations.judged(certificate)
