"""The command line: one file per command, which parses, calls a room, and prints; no logic.

Results go to stdout, everything else to stderr. Torch and transformers are imported by the commands that need them,
so that `pplr --help` answers at once.
"""

from __future__ import annotations

import sys

INTERRUPTED = 130
"""Exit code of whoever was stopped by Ctrl-C: 128 + the number of the signal."""


def main() -> None:
    """Run the command line on `sys.argv` and exit; mistakes of the person at the keyboard end in sentences."""
    try:
        from pplr.cli.app import app

        app(prog_name="pplr")
    except KeyboardInterrupt:
        # before a command could take over
        sys.stderr.write("Interrupted.\n")
        sys.exit(INTERRUPTED)
