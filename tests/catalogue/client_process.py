"""The program `pplr` under observation: which files it opens, and with SIGKILL for somebody at a chunk.

    python client_process.py REPORT PID CHUNK pplr's words...

When chunk number CHUNK is about to be put in its place, the process PID is killed, or this one where PID is "self".
"""

from __future__ import annotations

import json
import os
import signal
import sys
from itertools import count
from pathlib import Path
from typing import Any

REPORT, VICTIM, CHUNK = sys.argv[1], sys.argv[2], int(sys.argv[3])
opened: set[str] = set()
written = count(1)


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    """Note files that are opened, and kill at the right moment."""
    if event == "open":
        opened.add(os.fsdecode(arguments[0]) if isinstance(arguments[0], str | bytes) else str(arguments[0]))
    elif event == "os.rename" and str(arguments[1]).endswith(".chunk") and next(written) == CHUNK:
        os.kill(os.getpid() if VICTIM == "self" else int(VICTIM), signal.SIGKILL)


sys.addaudithook(watch)
sys.argv[:] = ["pplr", *sys.argv[4:]]

from pplr.cli import main  # noqa: E402

try:
    main()
finally:
    found = {"opened": sorted(opened), "tokenizers": "tokenizers" in sys.modules}
    Path(REPORT).write_text(json.dumps(found))
