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
        return Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except ProcessLookupError:
        return False
    except FileNotFoundError:  # ended just now, or a system without /proc
        return not Path("/proc/self").exists()


def end_with(process: int) -> None:
    """End this process as soon as another one no longer lives, at once and without any clean-up.

    What a process holds, a lock say, is free then, whatever its main thread waits for.
    """

    def watch() -> None:
        while alive(process):
            time.sleep(LOOK_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name="end-with", daemon=True).start()
