"""Where output goes: results to stdout, everything else to stderr."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console

from pplr.errors import PplrError, RunError

if TYPE_CHECKING:
    from pplr.findings import Finding

FILE_WIDTH = 120
"""Columns of what is written to a file or a pipe; the variable COLUMNS overrides it."""


def results() -> Console:
    """Return the console on stdout, for tables that a person asked for."""
    return _console(stderr=False)


def messages() -> Console:
    """Return the console on stderr, for progress, hints and errors."""
    return _console(stderr=True)


def write_json(value: Any) -> None:
    """Write a JSON document to stdout; numbers that JSON does not know (NaN, infinity) become null."""
    sys.stdout.write(json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False, default=str) + "\n")
    sys.stdout.flush()


def show_error(error: PplrError) -> None:
    """Write an error's sentences to stderr, one line each."""
    console = messages()
    lines = str(error).splitlines() or [type(error).__name__]
    console.print("Error:", style="bold red", end=" ")
    if len(lines) == 1:
        say(lines[0], console)
        return
    say(f"{len(lines)} things are wrong.", console)
    for line in lines:
        say(f"- {line}", console)


def say(text: str, console: Console | None = None) -> None:
    """Write a line of plain text, by default to stderr; long ones are broken on a terminal only.

    Where stderr cannot be written the line is lost and the work goes on: results are worth more than messages.
    """
    console = console or messages()
    try:
        console.print(text, markup=False, highlight=False, soft_wrap=not console.is_terminal)
    except OSError:
        if not console.stderr:
            raise
        silence(sys.stderr)


def show_findings(found: Iterable[Finding], party: str) -> None:
    """Write findings as they come.

    Raises:
        RunError: something is wrong, so that `party` cannot take part.
    """
    wrong = []
    for finding in found:
        say(f"{'good' if finding.good else 'WRONG'}  {finding.what}: {finding.text}")
        wrong += [] if finding.good else [finding.what]
    if wrong:
        raise RunError(f"{party} cannot take part yet: {', '.join(wrong)}.")
    say(f"{party} can take part.")


def silence(stream: TextIO) -> None:
    """Send what is still written to a stream that cannot be written to nowhere, also at the end of the process."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def shown_path(path: Path) -> str:
    """Return a path as a person would write it: from the current folder where it lies below."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


class _Messages(Console):
    """The console on stderr: a reader that has gone away is no reason to stop the work."""

    def on_broken_pipe(self) -> None:
        """Fall silent."""
        self.quiet = True
        silence(sys.stderr)


def _console(*, stderr: bool) -> Console:
    console = _Messages(stderr=True) if stderr else Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = FILE_WIDTH
    return console


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
