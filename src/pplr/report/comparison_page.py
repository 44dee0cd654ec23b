"""One HTML file with the tables and plots of comparisons; like a run's report it loads nothing from a network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pplr.evaluation import Difference
from pplr.report.comparison import Comparison
from pplr.report.comparison_figures import comparison_figures
from pplr.report.comparison_text import baseline_cells, with_deviation, with_interval
from pplr.report.figures import Figure
from pplr.report.html import render_page
from pplr.storage import write_text
from pplr.wording import baseline_name


def write_page(path: Path, name: str, comparisons: Sequence[tuple[str, Comparison]]) -> None:
    """Write a page of comparisons, each with its title, to `path`.

    Raises:
        RunError: a run folder of theirs is damaged.
        StorageError: the disk is full or not writable.
    """
    write_text(path, render_comparisons(name, comparisons))


def render_comparisons(name: str, comparisons: Sequence[tuple[str, Comparison]]) -> str:
    """Return the page: one HTML document with its scripts, styles and data inside."""
    parts: list[dict[str, Any]] = []
    figures: dict[str, Figure] = {}
    for place, (title, comparison) in enumerate(comparisons):
        own = comparison_figures(comparison)
        keys = {f"{place}-{number}": heading for number, heading in enumerate(own)}
        figures |= {key: own[heading] for key, heading in keys.items()}
        parts.append({"title": title, "comparison": comparison, "rows": _rows(comparison), "plots": keys})
    payload = {"curves": figures, "heat": None}
    return render_page("comparison.html", {"name": name, "parts": parts, "payload": payload})


def _rows(comparison: Comparison) -> list[dict[str, Any]]:
    rows = []
    for run in comparison.runs:
        spread = run.balance
        figures = ["–", "–", "–"]
        if spread is not None:
            figures = [with_deviation(spread.worst, run.worst_std), f"{spread.std:.4f}", f"{spread.gap:.4f}"]
        rows.append(
            {
                "label": run.label,
                "seeds": ", ".join(map(str, run.seeds)),
                "cells": [with_deviation(run.overall, run.overall_std), *figures],
                "differences": [_difference(run.difference), _difference(run.worst_difference)],
            }
        )
    for each in comparison.baselines:
        nothing = [("", False), ("", False)]
        cells = baseline_cells(each)
        rows.append({"label": baseline_name(each.name), "seeds": "", "cells": cells, "differences": nothing})
    return rows


def _difference(difference: Difference | None) -> tuple[str, bool]:
    """Return a difference with its interval, and whether it is clear."""
    return with_interval(difference, "{}"), difference is not None and difference.clear
