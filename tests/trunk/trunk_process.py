"""A trunk's server as a process of its own, and the certificates of everybody who talks to it."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pplr.config import Config, config_toml
from pplr.pki import Authority, Identity, Role

CLIENTS = ("shop-0", "shop-1", "shop-2")


def certificates(folder: Path, clients: tuple[str, ...] = CLIENTS) -> Path:
    """Make certificates of everybody."""
    authority = Authority.create(folder)
    authority.issue(Identity(Role.TRUNK, "trunk"), ["127.0.0.1", "localhost"])
    authority.issue(Identity(Role.COORDINATOR, "coordinator"))
    for name in clients:
        authority.issue(Identity(Role.CLIENT, name))
    return folder


class TrunkProcess:
    """`pplr trunk serve`, which can be killed and started again at the same port."""

    serves = "trunk"

    def __init__(self, config: Path, state: Path, certificates: Path, *options: str) -> None:
        self.port = 0
        self._command = [
            *(sys.executable, "-m", "pplr", self.serves, "serve", str(config), "--state", str(state)),
            *("--certificates", str(certificates), *options),
        ]
        self.lines: list[str] = []
        self.start()

    def start(self) -> None:
        """Start it, and wait until it serves."""
        command = [*self._command, "--listen", f"127.0.0.1:{self.port}"]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        heard: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._listen, args=(self.process, heard), daemon=True).start()
        until = time.monotonic() + 120
        while f"Serving the {self.serves} at" not in (line := heard.get(timeout=max(0.1, until - time.monotonic()))):
            if not line:
                raise AssertionError("the server ended: " + "".join(self.lines[-20:]))
        self.port = int(line.rpartition(":")[2])

    def _listen(self, process: subprocess.Popen[str], heard: queue.SimpleQueue[str]) -> None:
        assert process.stderr is not None
        with process.stderr:
            for line in process.stderr:
                self.lines.append(line)
                heard.put(line)
        heard.put("")

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def resident(self) -> int:
        """Return resident memory in bytes."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no VmRSS")


@contextmanager
def serving(config: Config, folder: Path, certificates: Path, *options: str) -> Iterator[TrunkProcess]:
    """Serve a configuration's trunk, with its state below `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "trunk.toml").write_text(config_toml(config))
    server = TrunkProcess(folder / "trunk.toml", folder / "state", certificates, *options)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.kill()
