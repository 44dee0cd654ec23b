"""The plots of a comparison, as plotly's figures: a picture of all variants each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

from pplr.federation.history import Matrix, RoundRecord
from pplr.report.comparison import ComparedRun, Comparison
from pplr.report.figures import Figure, curve_style, shown
from pplr.report.folder import read_metrics
from pplr.report.matrices import NAMES, matrices
from pplr.wording import measure_name


def comparison_figures(comparison: Comparison) -> dict[str, Figure]:
    """Return the plots that the runs have figures for: title -> figure. What is drawn over rounds is the first seed's."""
    name = measure_name(comparison.metric)
    found = {}
    if all(run.balance is not None for run in comparison.runs):
        found[f"{name}: overall against the worst client"] = overall_against_worst(comparison)
    if all(run.clients for run in comparison.runs):
        found[f"{name} by client"] = by_client(comparison)
    elif len({len(run.ranked) for run in comparison.runs if run.ranked}) == 1:
        found[f"{name} of clients, from the worst to the best"] = by_rank(comparison)
    records = {run.label: read_metrics(run.folders[0]).rounds for run in comparison.runs}
    for title, read in _OVER_ROUNDS.items():
        curves = {label: [read(record) for record in rounds] for label, rounds in records.items()}
        known = {label: values for label, values in curves.items() if any(value is not None for value in values)}
        if known:
            found[title] = over_rounds(list(curves), known, title)
    for run in comparison.runs:
        found |= heat_maps(run, records[run.label])
    return found


def overall_against_worst(comparison: Comparison) -> Figure:
    """Return a point per variant, with its deviation over seeds: the more to the upper right, the better for all."""
    traces = []
    for place, run in enumerate(comparison.runs):
        color, _ = curve_style(place)
        trace = {
            "type": "scatter",
            "mode": "markers+text",
            "name": shown(run.label),
            "text": [shown(run.label)],
            "textposition": "top center",
            "x": [run.overall],
            "y": [run.balance.worst if run.balance is not None else None],
            "marker": {"color": color, "size": 11},
            "hovertemplate": "overall %{x:.4f}<br>worst client %{y:.4f}<extra>%{fullData.name}</extra>",
        }
        for key, deviation in (("error_x", run.overall_std), ("error_y", run.worst_std)):
            if deviation is not None:
                trace[key] = {"type": "data", "array": [deviation], "color": color, "thickness": 1}
        traces.append(trace)
    axes = {"xaxis": {"title": {"text": "overall"}}, "yaxis": {"title": {"text": "worst client"}, "automargin": True}}
    return {"data": traces, "layout": {"height": 460, "showlegend": False, **axes}}


def by_client(comparison: Comparison) -> Figure:
    """Return a group of bars per client, a bar per variant."""
    bars = {run.label: {shown(client): value for client, value in run.clients.items()} for run in comparison.runs}
    return _bars(bars, comparison.metric)


def by_rank(comparison: Comparison) -> Figure:
    """Return a group of bars per place in the order of clients, which over seeds are not the same clients."""
    bars = {run.label: {_place(i, len(run.ranked)): v for i, v in enumerate(run.ranked)} for run in comparison.runs}
    return _bars(bars, comparison.metric)


def _place(index: int, count: int) -> str:
    return "worst" if index == 0 else "best" if index == count - 1 else f"no. {index + 1}"


def _bars(bars: Mapping[str, Mapping[str, float]], metric: str) -> Figure:
    """Return a group of bars per key of the inner mappings, in each a bar per label that has something."""
    traces = [
        {
            "type": "bar",
            "name": shown(label),
            "x": list(values),
            "y": list(values.values()),
            "marker": {"color": curve_style(place)[0]},
            "hovertemplate": "%{x}: %{y:.4f}<extra>%{fullData.name}</extra>",
        }
        for place, (label, values) in enumerate(bars.items())
        if values
    ]
    axes = {"xaxis": {"type": "category"}, "yaxis": {"title": {"text": measure_name(metric)}}}
    return {"data": traces, "layout": {"height": 380, "barmode": "group", "legend": _BELOW, **axes}}


def over_rounds(labels: Sequence[str], curves: Mapping[str, Sequence[float | None]], title: str) -> Figure:
    """Return a curve per variant; colours go by the places of `labels`, so that a variant has one in all plots."""
    traces = []
    for label, values in curves.items():
        color, dash = curve_style(labels.index(label))
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": shown(label),
                "x": list(range(1, len(values) + 1)),
                "y": list(values),
                "line": {"color": color, "dash": dash, "width": 2},
                "marker": {"color": color, "size": 4},
                "hovertemplate": "%{y:.4f}",
            }
        )
    axes = {"xaxis": {"title": {"text": "round"}, "tickformat": "d"}, "yaxis": {"title": {"text": title}}}
    return {"data": traces, "layout": {"height": 360, "hovermode": "x unified", "legend": _BELOW, **axes}}


def heat_maps(run: ComparedRun, rounds: Sequence[RoundRecord]) -> dict[str, Figure]:
    """Return the matrices of a variant's last round, as far as its strategy has such."""
    last = matrices(rounds[-1:])
    if last is None:
        return {}
    return {
        f"{run.label}: {NAMES.get(name, name)}, round {last.rounds[-1]}": _heat_map(last.clients, values[-1])
        for name, values in last.values.items()
    }


def _heat_map(clients: Sequence[str], values: Matrix) -> Figure:
    trace = {
        "type": "heatmap",
        "x": list(clients),
        "y": list(clients),
        "z": values,
        "zmin": 0,
        "zmax": max(1e-9, *(max(row) for row in values)),
        "colorscale": [[0, "#eef3f9"], [1, "#1f5f9e"]],
        "texttemplate": "%{z:.2f}" if len(clients) <= 12 else "",
        "hovertemplate": "%{y} from %{x}: %{z:.4f}<extra></extra>",
        "xgap": 2,
        "ygap": 2,
    }
    axes: dict[str, Any] = {
        "xaxis": {"type": "category", "title": {"text": "gives"}, "automargin": True},
        "yaxis": {"type": "category", "title": {"text": "receives"}, "autorange": "reversed", "automargin": True},
    }
    return {"data": [trace], "layout": {"height": 120 + 46 * len(clients), **axes}}


def _mean_of(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _learning_speed(record: RoundRecord) -> float | None:
    speeds = record.details.get("learning_speed", [])
    return _mean_of([speed for speed in speeds if isinstance(speed, float)])


_OVER_ROUNDS: dict[str, Callable[[RoundRecord], float | None]] = {
    "validation score": lambda record: record.score,
    "training loss, mean over clients": lambda record: _mean_of([c.training_loss for c in record.clients.values()]),
    "learning speed w, mean over clients": _learning_speed,
}
"""Title -> what is drawn of each round."""

_BELOW = {"orientation": "h", "y": -0.25}
