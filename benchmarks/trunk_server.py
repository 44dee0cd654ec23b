"""A trunk's server as a process of its own, for benchmarks, and certificates for everybody."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from pplr.pki import Authority, Identity, Role


class Server:
    """`pplr trunk serve` for the configuration trunk.toml in a folder, which also gets the server's state."""

    def __init__(self, work: Path, *options: str) -> None:
        self._command = [
            *(sys.executable, "-m", "pplr", "trunk", "serve", str(work / "trunk.toml")),
            *("--listen", "127.0.0.1:0", "--state", str(work / "state"), *options),
        ]

    def __enter__(self) -> Server:
        self._process = subprocess.Popen(self._command, stderr=subprocess.PIPE, text=True)
        for line in self._process.stderr or ():
            if "Serving the trunk at" in line:
                self.address = line.split()[-1]
                break
        else:
            raise RuntimeError("the server did not start")
        threading.Thread(target=lambda: list(self._process.stderr or ()), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()


def make_certificates(folder: Path, clients: Sequence[str]) -> None:
    """Make certificates of the trunk's server, the coordinator and `clients`."""
    authority = Authority.create(folder)
    authority.issue(Identity(Role.TRUNK, "trunk"), ["127.0.0.1"])
    authority.issue(Identity(Role.COORDINATOR, "coordinator"))
    for name in clients:
        authority.issue(Identity(Role.CLIENT, name))
