"""What the sections of docs/benchmarks.md are made of."""

from __future__ import annotations

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
