"""The processes of a federation over a network, each started by the command that the documentation gives."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

PPLR = (sys.executable, "-m", "pplr")


class Party:
    """A command in a folder; all that it says goes to a log."""

    def __init__(self, folder: Path, log: str, *words: str | Path) -> None:
        """Start the command; `pplr` is the one of this Python, also in scripts."""
        self.log = folder / log
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [str(word) for word in words],
                cwd=folder,
                stdout=output,
                stderr=output,
                env=os.environ | {"OMP_NUM_THREADS": "1", "PATH": path},
            )

    @property
    def said(self) -> str:
        """All that it has said so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def until(self, ready: Callable[[], bool], seconds: float = 120) -> None:
        """Wait until something is so; the process must not end meanwhile."""
        deadline = time.monotonic() + seconds
        while not ready():
            assert self.process.poll() is None, f"it has ended: {self.said[-2000:]}"
            assert time.monotonic() < deadline, f"it took too long: {self.said[-2000:]}"
            time.sleep(0.05)

    def ended(self, seconds: float = 240) -> int:
        """Wait for its end, and return the exit code."""
        return self.process.wait(seconds)

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """SIGTERM, where it still runs."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(60)


class Parties:
    """Processes that are ended together at the end of the block."""

    def __init__(self) -> None:
        self._stack = ExitStack()

    def __enter__(self) -> Parties:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def start(self, folder: Path, log: str, *words: str | Path) -> Party:
        """Start a process."""
        party = Party(folder, log, *words)
        self._stack.callback(party.stop)
        return party
