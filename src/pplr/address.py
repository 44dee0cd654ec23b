"""Addresses of servers, and whether one can be had."""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass

from pplr.errors import ConfigError, RunError

_LOOPBACK = ("127.", "localhost", "[::1]", "::1")
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "[::]": "[::1]"}  # noqa: S104
"""Addresses that stand for all of a machine's, and how its own processes reach them."""


@dataclass(frozen=True)
class Address:
    """Where a server listens."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Return the address in HOST:PORT.

        Raises:
            ConfigError: it is none.
        """
        host, _, port = text.rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 65_536:
            raise ConfigError(f"{text!r} is no address. Write HOST:PORT, such as 127.0.0.1:8000.")
        return cls(host, int(port))

    @property
    def loopback(self) -> bool:
        """Only processes of the same machine reach it."""
        return self.host.startswith(_LOOPBACK)

    @property
    def name(self) -> str:
        """The host without the brackets of IPv6."""
        return self.host.strip("[]")

    @property
    def from_here(self) -> Address:
        """Where a process of the same machine reaches a server that listens at this address."""
        return Address(_EVERYWHERE.get(self.host, self.host), self.port)

    @property
    def everywhere(self) -> Address:
        """The same port of all addresses that a machine has."""
        return Address("[::]" if ":" in self.name else "0.0.0.0", self.port)  # noqa: S104

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def check_free(address: Address) -> str:
    """Return in words that a server can listen at an address.

    Raises:
        RunError: another process listens there, or it is not this machine's.
    """
    try:
        kind, _, _, _, place = socket.getaddrinfo(address.name, address.port, type=socket.SOCK_STREAM)[0]
        with socket.socket(kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
            probe.listen()
    except OSError as problem:
        raise RunError(_why_not(address, problem)) from problem
    return f"{address} is free"


def _why_not(address: Address, problem: OSError) -> str:
    if problem.errno == errno.EADDRINUSE:
        return f"Another process listens at {address} already. End it, or choose another port (--listen)."
    if problem.errno == errno.EADDRNOTAVAIL:
        return f"{address} is no address of this machine. Listen at {address.everywhere}, or at one that it has."
    return f"Nothing can listen at {address}: {problem.strerror or problem}. Choose another address (--listen)."
