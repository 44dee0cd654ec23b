"""A trunk's server as a process of its own, for benchmarks, and certificates for everybody."""

from __future__ import annotations

import subprocess
import sys
import threading
import urllib.request
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from peak_memory import resident_bytes
from pplr.pki import Authority, Identity, Role


class Server:
    """`pplr trunk serve` for the configuration trunk.toml in a folder, which also gets the server's state.

    Attributes:
        address: where it serves, as host:port.
        metrics: where its figures for Prometheus are, if it was asked for them; else "".
        log: its newest lines.
    """

    address = ""
    metrics = ""

    def __init__(self, work: Path, *options: str) -> None:
        self.log: deque[str] = deque(maxlen=200)
        self._command = [
            *(sys.executable, "-m", "pplr", "trunk", "serve", str(work / "trunk.toml")),
            *("--listen", "127.0.0.1:0", "--state", str(work / "state"), *options),
        ]

    def __enter__(self) -> Server:
        self._process = subprocess.Popen(self._command, stderr=subprocess.PIPE, text=True)
        for line in self._process.stderr or ():
            self.log.append(line)
            if line.startswith("Metrics: "):
                self.metrics = line.split()[-1]
            if "Serving the trunk at" in line:
                self.address = line.split()[-1]
                break
        else:
            raise RuntimeError("the server did not start: " + "".join(self.log))
        self._listening = threading.Thread(target=lambda: self.log.extend(self._process.stderr or ()), daemon=True)
        self._listening.start()
        return self

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def resident_bytes(self) -> int:
        """Return its resident memory."""
        return resident_bytes(self._process.pid)

    def figures(self) -> dict[str, float]:
        """Return what it tells Prometheus, by name and labels."""
        with urllib.request.urlopen(self.metrics, timeout=20) as answer:
            lines = answer.read().decode().splitlines()
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[:1] != "#")}

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()
        self._listening.join()
        if self._process.stderr is not None:
            self._process.stderr.close()


def make_certificates(folder: Path, clients: Sequence[str]) -> None:
    """Make certificates of the trunk's server, the coordinator and `clients`."""
    authority = Authority.create(folder)
    authority.issue(Identity(Role.TRUNK, "trunk"), ["127.0.0.1"])
    authority.issue(Identity(Role.COORDINATOR, "coordinator"))
    for name in clients:
        authority.issue(Identity(Role.CLIENT, name))
