"""The report's plots, as plain plotly figures {"data": [...], "layout": {...}}; the page's CSS colours the rest."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from typing import Any

from pplr.federation.history import ClientRound, RoundRecord
from pplr.report.schema import Metrics
from pplr.report.tables import measured_keys
from pplr.wording import LOSS, baseline_name, measure_name

Figure = dict[str, Any]

PALETTE = ("#2f7fd1", "#d9622b", "#1a9e77", "#c45fa0", "#b58a00", "#6f6fd8")
"""Colours of clients, told apart by most people who see colours differently, readable on light and dark."""

DASHES = ("solid", "dash")
"""After the sixth client the colours repeat with another dash."""

MOST_CURVES = len(PALETTE) * len(DASHES)
"""Clients with a curve of their own; of more, as many between the worst and the best are drawn."""

MOST_ROWS = 40
"""Clients with a row in the plot of quality; more are drawn as boxes."""

NEUTRAL = "#8a919c"

SYMBOLS = {
    "circle-open": "M8 3a5 5 0 1 0 0 10a5 5 0 1 0 0 -10",
    "square-open": "M3 3h10v10h-10z",
    "diamond-open": "M8 2l6 6l-6 6l-6 -6z",
    "triangle-up-open": "M8 3l6 10h-12z",
    "x-thin-open": "M3 3l10 10M13 3l-10 10",
    "cross-thin-open": "M8 2v12M2 8h12",
    "triangle-down-open": "M8 13l6 -10h-12z",
}
"""Marks of the baselines, in their order: plotly's name, and the same shape as an SVG path in a box of 16."""


def quality(metrics: Metrics) -> dict[str, Figure]:
    """Return the plot of every measure by client, beside the baselines: measure key -> figure."""
    return {key: _quality(metrics, key) for key in measured_keys(metrics)}


def trained_clients(metrics: Metrics) -> list[str]:
    """Return the clients of the rounds: those of the test, or the one that trained on everybody's data."""
    return list(metrics.rounds[0].clients) if metrics.rounds else []


def marks(metrics: Metrics) -> list[tuple[str, str]]:
    """Return (name, SVG path of its mark) of each baseline in the plots of quality; none where boxes are drawn."""
    if len(metrics.clients) > MOST_ROWS:
        return []
    paths = list(SYMBOLS.values())
    return [(baseline_name(name), paths[place % len(paths)]) for place, name in enumerate(metrics.beside)]


def shown_clients(metrics: Metrics, key: str) -> list[str]:
    """Return the clients that get curves: all that trained, or `MOST_CURVES` from the worst to the best by `key`."""
    names = trained_clients(metrics)
    if len(names) <= MOST_CURVES:
        return names
    values = {name: found.figure(key) for name, found in metrics.clients.items() if name in names}
    ordered = sorted((name for name in values if values[name] is not None), key=lambda name: values[name] or 0.0)
    ordered = ordered or names
    steps = max(2, min(MOST_CURVES, len(ordered)))
    return [ordered[round(i * (len(ordered) - 1) / (steps - 1))] for i in range(steps)]


def curve_style(place: int) -> tuple[str, str]:
    """Return colour and dash of the curve at `place` 0, 1, ..."""
    return PALETTE[place % len(PALETTE)], DASHES[place // len(PALETTE) % len(DASHES)]


def validation_measure(rounds: Sequence[RoundRecord], preferred: str) -> str | None:
    """Return the ranking metric to draw over rounds: `preferred` where it was validated, or another, or None."""
    keys = list(dict.fromkeys(key for record in rounds for c in record.clients.values() for key in c.validation))
    return preferred if preferred in keys else next(iter(keys), None)


def over_rounds(metrics: Metrics, clients: Sequence[str], measure: str | None) -> dict[str, Figure]:
    """Return the curves of training loss, validation loss and `measure`, as far as they were measured."""
    wanted: list[tuple[str, str, Callable[[ClientRound], float | None]]] = [
        ("training_loss", "training loss", lambda c: c.training_loss),
        ("validation_loss", "validation loss", lambda c: c.validation_loss),
    ]
    if measure is not None:
        name = f"validation {measure_name(measure)}"
        wanted.append(("validation_measure", name, lambda c: c.validation.get(measure)))
    found = {}
    for figure, name, read in wanted:
        curves = {
            client: [None if client not in r.clients else read(r.clients[client]) for r in metrics.rounds]
            for client in clients
        }
        if any(value is not None for curve in curves.values() for value in curve):
            found[figure] = _curves(metrics, curves, name)
    return found


def strategy_curves(metrics: Metrics, clients: Sequence[str]) -> dict[str, Figure]:
    """Return the strategy's own figures of each client, such as "learning_speed", and "own_weight", D's diagonal.

    Where a strategy has no matrix, there is no "own_weight".
    """
    vectors: dict[str, dict[str, list[float | None]]] = {}
    for name in _detail_names(metrics.rounds):
        vectors[name] = {client: [] for client in clients}
        for record in metrics.rounds:
            values = dict(zip(record.clients, record.details.get(name, []), strict=False))
            for client in clients:
                value = values.get(client)
                vectors[name][client].append(value if isinstance(value, float) else None)
    if all(record.mixing is not None for record in metrics.rounds):
        vectors["own_weight"] = {client: [] for client in clients}
        for record in metrics.rounds:
            own = {
                client: row[i] for i, (client, row) in enumerate(zip(record.clients, record.mixing or [], strict=True))
            }
            for client in clients:
                vectors["own_weight"][client].append(own.get(client))
    names = {"learning_speed": "learning speed w", "own_weight": "weight of its own row"}
    figures = {key: _curves(metrics, curves, names.get(key, key.replace("_", " "))) for key, curves in vectors.items()}
    for figure in figures.values():
        figure["layout"]["yaxis"]["range"] = [0, 1.04]
    return figures


def _quality(metrics: Metrics, key: str) -> Figure:
    recommenders: list[tuple[str, dict[str, float | None]]] = [
        (baseline_name(name), {client: found.figure(key) for client, found in baseline.clients.items()})
        for name, baseline in metrics.beside.items()
        if key != LOSS
    ]
    recommenders.append((metrics.name, {client: found.figure(key) for client, found in metrics.clients.items()}))
    many = len(metrics.clients) > MOST_ROWS
    traces: list[dict[str, Any]] = []
    for place, (name, values) in enumerate(recommenders):
        own = place == len(recommenders) - 1
        trace: dict[str, Any] = {"name": shown(name), "x": list(values.values())}
        color = PALETTE[0] if own else NEUTRAL
        if many:
            trace |= {"type": "box", "orientation": "h", "marker": {"color": color}, "boxpoints": "outliers"}
        else:
            marker = {
                "symbol": "circle" if own else list(SYMBOLS)[place % len(SYMBOLS)],
                "size": 14 if own else 10,
                "color": color,
                "line": {"width": 0 if own else 1.75, "color": color},
            }
            trace |= {"type": "scatter", "mode": "markers", "y": [shown(c) for c in values], "marker": marker}
            trace["hovertemplate"] = "%{y}: %{x:.4f}<extra>%{fullData.name}</extra>"
        traces.append(trace)
    rows = len(recommenders) if many else len(metrics.clients)
    layout = {
        "height": 90 + 36 * rows,
        "xaxis": {"title": {"text": measure_name(key)}, "rangemode": "tozero"},
        "yaxis": {"type": "category", "autorange": "reversed", "automargin": True},
        "showlegend": False,
    }
    return {"data": traces, "layout": layout}


def _curves(metrics: Metrics, curves: dict[str, list[float | None]], name: str) -> Figure:
    rounds = [record.round for record in metrics.rounds]
    traces = []
    for place, (client, values) in enumerate(curves.items()):
        color, dash = curve_style(place)
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": shown(client),
                "x": rounds,
                "y": values,
                "line": {"color": color, "dash": dash, "width": 2},
                "marker": {"color": color, "size": 5 if len(rounds) <= 40 else 3},
                "hovertemplate": "%{y:.4f}",
            }
        )
    layout: dict[str, Any] = {
        "height": 300,
        "xaxis": {"title": {"text": "round"}, "tickformat": "d", "dtick": 1 if len(rounds) <= 12 else None},
        "yaxis": {"title": {"text": name}, "automargin": True},
        "hovermode": "x unified",
        "showlegend": False,
    }
    if metrics.stopped is not None and metrics.stopped.best_round:
        best = metrics.stopped.best_round
        line = {"color": NEUTRAL, "width": 1, "dash": "dot"}
        layout["shapes"] = [
            {"type": "line", "x0": best, "x1": best, "yref": "paper", "y0": 0, "y1": 1, "line": line, "layer": "below"}
        ]
    return {"data": traces, "layout": layout}


def _detail_names(rounds: Sequence[RoundRecord]) -> list[str]:
    """Return the details that hold one number per client."""
    found: dict[str, None] = {}
    for record in rounds:
        for name, values in record.details.items():
            if values and not isinstance(values[0], list):
                found[name] = None
    return list(found)


def shown(text: str) -> str:
    """Return `text` so that plotly, which reads a little HTML, shows it as it is."""
    return html.escape(text, quote=False)
