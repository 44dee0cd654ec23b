"""report.html: one file that shows a run, works without a network, and lets no text of the data become markup."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import asdict
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from pplr.federation.history import MOST_CLIENTS
from pplr.report.figures import (
    PALETTE,
    curve_style,
    marks,
    over_rounds,
    quality,
    shown_clients,
    strategy_curves,
    trained_clients,
    validation_measure,
)
from pplr.report.folder import FinishedRun, read_run
from pplr.report.headline import headline, main_measure
from pplr.report.matrices import matrices
from pplr.report.schema import Metrics, Settings
from pplr.report.tables import BALANCE_COLUMNS, cost_facts, cost_rows, measure_tables, measured_keys
from pplr.storage import write_text
from pplr.wording import MEANINGS, baseline_name, figure_text, measure_name, plural, strategy_name

REPORT_FILE = "report.html"

OPEN_EXAMPLES = 15
"""Examples that are shown at once; more are behind a button."""

SHOWN_HISTORY = 8
"""Newest titles of a history that an example shows."""

MOST_ROUND_ROWS = 200
"""Rounds in the table below the curves."""

MOST_LEFT_OUT = 500
"""Updates in the table of those that did not count: the newest."""


def write_report(folder: Path) -> Path:
    """Write report.html into the run folder `folder`, from the other files there, and return its path.

    Raises:
        RunError: the folder holds no finished run, or a damaged one.
        StorageError: the disk is full or not writable.
    """
    path = folder / REPORT_FILE
    write_text(path, render_report(read_run(folder)))
    return path


def render_report(run: FinishedRun) -> str:
    """Return the report of a finished run: one HTML document with its scripts, styles and data inside."""
    return render_page("report.html", _content(run))


def render_page(template: str, content: dict[str, Any]) -> str:
    """Return a template of this package as one HTML document with its scripts, styles and data inside.

    `content` holds what the template names, `payload` among it: the figures that the page's script draws.
    """
    environment = Environment(
        loader=PackageLoader("pplr.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "figure": figure_text,
        "measure": measure_name,
        "baseline": baseline_name,
        "strategy": strategy_name,
    }
    environment.globals["plural"] = plural
    script = _asset("report.js")
    return environment.get_template(template).render(
        **content,
        styles=Markup(_asset("report.css")),  # noqa: S704 - files of this package, not of the data
        plotly=Markup(_plotly()),  # noqa: S704
        script=Markup(script),  # noqa: S704
        hashes=[_hash(_plotly()), _hash(script)],
    )


def _content(run: FinishedRun) -> dict[str, Any]:
    metrics = run.metrics
    main = main_measure(metrics)
    keys = measured_keys(metrics)
    trained, clients = trained_clients(metrics), shown_clients(metrics, main)
    measure = validation_measure(metrics.rounds, main)
    curves = over_rounds(metrics, clients, measure)
    speeds = strategy_curves(metrics, clients) if len(trained) > 1 else {}
    heat = matrices(metrics.rounds)
    return {
        "run": run,
        "metrics": metrics,
        "headline": headline(metrics),
        "main": main if main in keys else None,
        "tables": [measure_tables(metrics, key) for key in keys],
        "marks": marks(metrics),
        "own_color": PALETTE[0],
        "balance_columns": BALANCE_COLUMNS,
        "meanings": {name: MEANINGS.get(name, "") for name in metrics.baselines},
        "curves": curves,
        "speeds": speeds,
        "measure": measure,
        "legend": [(client, *curve_style(place)) for place, client in enumerate(clients)],
        "trained": trained,
        "round_rows": _round_rows(metrics, clients, measure),
        "left_out": _left_out(metrics),
        "heat": heat,
        "examples": _examples(run),
        "open_examples": OPEN_EXAMPLES,
        "most_left_out": MOST_LEFT_OUT,
        "most_clients": MOST_CLIENTS,
        "cost": cost_rows(metrics.cost.seconds),
        "facts": cost_facts(metrics),
        "split": metrics.data.split.kind if isinstance(metrics.data.split, Settings) else metrics.data.split,
        "payload": {
            "quality": quality(metrics),
            "main": main,
            "curves": curves | speeds,
            "heat": None if heat is None else asdict(heat),
        },
    }


def _round_rows(metrics: Metrics, clients: list[str], measure: str | None) -> list[tuple[int, str, list[str]]]:
    """Return (round, score, what was validated of each client) for the table below the curves."""
    rows = []
    for record in metrics.rounds[-MOST_ROUND_ROWS:]:
        found = [record.clients.get(client) for client in clients]
        values = [None if c is None else (c.validation.get(measure) if measure else c.validation_loss) for c in found]
        rows.append((record.round, figure_text(record.score), [figure_text(value) for value in values]))
    return rows


def _left_out(metrics: Metrics) -> list[tuple[int, str, str, str]]:
    """Return (round, client, "refused" or "missing", reason) for every update that did not count."""
    return [
        (record.round, client, "refused" if client in record.quarantined else "missing", reason)
        for record in metrics.rounds
        for client, reason in sorted(record.absent.items())
    ]


def _examples(run: FinishedRun) -> list[dict[str, Any]]:
    found = []
    for example in run.examples:
        chosen = {title.casefold() for title in example.chosen}
        items = [(item, item.title.casefold() in chosen) for item in example.recommended]
        found.append(
            {
                "example": example,
                "earlier": max(0, len(example.history) - SHOWN_HISTORY),
                "history": example.history[-SHOWN_HISTORY:],
                "items": items,
                "hit": any(hit for _, hit in items),
            }
        )
    return found


@cache
def _plotly() -> str:
    """Return plotly.js, once per process: reading and hashing 5 MB takes a moment."""
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())


@cache
def _asset(name: str) -> str:
    return (files("pplr.report") / "templates" / name).read_text(encoding="utf-8")


@cache
def _hash(script: str) -> str:
    """Return the hash by which the page's policy allows this one script, and no other."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
