"""Whether another process lives, and ending together with it."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

LOOK_SECONDS = 0.5
"""Between two looks at a process."""


def alive(process: int) -> bool:
    """Return whether a process lives; one that has ended without its parent noticing does not."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's, but there
        pass
    fields = _fields(process)
    if fields is None:  # ended just now, or a system without /proc
        return not Path("/proc/self").exists()
    return fields[0] not in {b"Z", b"X"}


def own_identity() -> str:
    """Return what tells this process from all others of this machine, also from later ones of the same number."""
    return identity(os.getpid())


def identity(process: int) -> str:
    """Return the number of a process, and when it was started, in ticks since the machine was."""
    fields = _fields(process)
    return f"{process}:{'' if fields is None else fields[19].decode()}"


def end_with(other: str) -> None:
    """End this process as soon as the one of an `identity` no longer lives, at once and without any clean-up.

    What this process holds, a lock say, is free then, whatever its main thread waits for. It is as if it had been killed,
    which must not harm what it writes.
    """
    process = int(other.partition(":")[0])

    def watch() -> None:
        try:
            while alive(process) and identity(process) == other:
                time.sleep(LOOK_SECONDS)
        finally:
            os._exit(1)

    threading.Thread(target=watch, name="end-with", daemon=True).start()


def _fields(process: int) -> list[bytes] | None:
    """Return the fields of /proc/ID/stat from the state on, or None where there are none."""
    try:
        return Path(f"/proc/{process}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
