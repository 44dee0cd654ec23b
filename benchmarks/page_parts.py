"""What the sections of docs/benchmarks.md are made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def times(value: float) -> str:
    """Return a ratio."""
    return f"{value:.2f} times"


def percent(value: float) -> str:
    """Return a share."""
    return f"{100 * value:.1f}%"


def with_error(estimate: dict[str, Any]) -> str:
    """Return a share with its standard error."""
    return f"{100 * estimate['value']:.1f} ± {100 * estimate['error']:.1f}%"


def between_marks(path: Path, name: str, text: str) -> None:
    """Write `text` into a Markdown file, between the comments `name:start` and `name:end`.

    Raises:
        ValueError: the file has no such place.
    """
    start, end = f"<!-- {name}:start -->\n", f"<!-- {name}:end -->"
    page = path.read_text(encoding="utf-8")
    if page.count(start) != 1 or page.count(end) != 1:
        raise ValueError(f"{path} needs one line '{start.strip()}' and one line '{end}' for the table.")
    before, _, rest = page.partition(start)
    path.write_text(f"{before}{start}{text}{end}{rest.partition(end)[2]}", encoding="utf-8")
