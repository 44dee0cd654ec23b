"""The command line: one file per command, which parses, calls a room, and prints; no logic.

Results go to stdout, everything else to stderr. Torch and transformers are imported by the commands that need them,
so that `pplr --help` answers at once.
"""

from __future__ import annotations

import signal
import sys
from types import FrameType

INTERRUPTED = 130
"""Exit code of whoever was stopped by Ctrl-C: 128 + the number of the signal."""


def main() -> None:
    """Run the command line on `sys.argv` and exit; mistakes of the person at the keyboard end in sentences.

    An interrupt ends as one, also where a library has made an error of its own of it: numpy says that it cannot be imported.
    """
    interrupted = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        interrupted = True
        signal.default_int_handler(number, frame)

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else somebody wants no interrupts
        signal.signal(signal.SIGINT, note)
    try:
        from pplr.cli.app import app

        app(prog_name="pplr")
    except SystemExit as end:
        if not interrupted or end.code in {None, 0, INTERRUPTED}:
            raise
    except KeyboardInterrupt:
        pass  # before a command could take over
    except Exception:
        if not interrupted:
            raise
    else:
        return
    sys.stderr.write("Interrupted.\n")
    sys.exit(INTERRUPTED)
