"""metrics.json of a run over a network: from the means and counts that silos tell."""

from __future__ import annotations

import math
import platform
import resource
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import torch

from pplr.config import Config
from pplr.evaluation import balance, balances
from pplr.federation.messages import Report
from pplr.results import SCHEMA
from pplr.silos.announcement import Announcement

NOTE = "Figures of single users, examples and rows stayed at the silos; simple baselines were not measured."

MIXED = "Test figures of {} are of the model mixed with the silo's own counts; model_alone has those of the model."


def assemble(
    config: Config,
    announced: Mapping[str, Announcement],
    sizes: Mapping[str, int],
    reports: Mapping[str, Report],
    rounds: list[dict[str, Any]],
    stopped: Mapping[str, Any],
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    """Return the contents of metrics.json (schema 1)."""
    first = announced[min(announced)]
    measured = {name: report for name, report in reports.items() if report.users}
    total = sum(report.users for report in measured.values())
    notes = sorted({f"{name}: {note}" for name, one in announced.items() for note in one.notes})
    mixed = sorted(name for name, report in measured.items() if report.metrics_alone is not None)
    if mixed:
        notes = [MIXED.format(", ".join(mixed)), *notes]
    return {
        "schema": SCHEMA,
        "name": config.name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": config.seed,
        "strategy": config.strategy.model_dump(mode="json"),
        "backbone": config.backbone.model_dump(mode="json"),
        "model": {"name": first.model, "digest": first.weights},
        "data": {
            "users": sum(one.users for one in announced.values()),
            "items": first.items,
            "events": sum(one.events for one in announced.values()),
            "test_users": total,
            "split": first.split,
            "notes": [NOTE, *notes],
        },
        "overall": {**_means(measured), **_mean_loss(measured), "users": total},
        "clients": {name: _client(sizes[name], reports.get(name)) for name in sorted(announced)},
        "balance": _balance(measured),
        "model_alone": _model_alone(measured),
        "baselines": {},
        "rounds": rounds,
        "stopped": dict(stopped),
        "cost": _cost(first, rounds, seconds),
        "versions": {
            "pplr": version("pplr"),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": version("transformers"),
        },
        "device": ", ".join(sorted({one.device for one in announced.values()})),
        "threads": None,
    }


def _means(measured: Mapping[str, Report]) -> dict[str, float | None]:
    """Return the means over all users, of whom only each silo's mean is known."""
    keys = {key for report in measured.values() for key in report.metrics}
    figures = {key: [(r.metrics[key], r.users) for r in measured.values() if key in r.metrics] for key in sorted(keys)}
    return {key: _mean(known) for key, known in figures.items()}


def _mean_loss(measured: Mapping[str, Report]) -> dict[str, float | None]:
    return {"loss": _mean([(r.loss, r.users) for r in measured.values() if not math.isnan(r.loss)])}


def _mean(known: Sequence[tuple[float, int]]) -> float | None:
    """Return the mean of values that count as often as there are users; None where there is none."""
    return sum(value * users for value, users in known) / sum(users for _, users in known) if known else None


def _model_alone(measured: Mapping[str, Report]) -> dict[str, Any] | None:
    """Return the figures of the silos' models; None where these are the figures of the run."""
    if all(report.metrics_alone is None for report in measured.values()):
        return None
    alone = {
        name: report if report.metrics_alone is None else replace(report, metrics=report.metrics_alone)
        for name, report in measured.items()
    }
    known = {name: report.metrics for name, report in alone.items() if report.metrics}
    balanced = {key: asdict(value) for key, value in balances(known).items()} if known else {}
    return {
        "overall": _means(alone),
        "clients": {name: report.metrics for name, report in alone.items()},
        "balance": balanced,
    }


def _client(examples: int, report: Report | None) -> dict[str, Any]:
    if report is None:
        return {"users": 0, "examples": examples, "loss": None, "fusion": None}
    loss = None if math.isnan(report.loss) else report.loss
    return {**report.metrics, "users": report.users, "examples": examples, "loss": loss, "fusion": None}


def _balance(measured: Mapping[str, Report]) -> dict[str, Any]:
    found = {}
    known = {name: report.metrics for name, report in measured.items() if report.metrics}
    if known:
        found = {key: asdict(value) for key, value in balances(known).items()}
    losses = {name: report.loss for name, report in measured.items() if not math.isnan(report.loss)}
    if losses:
        found["loss"] = asdict(balance(losses, higher_is_better=False))
    return found


def _cost(first: Announcement, rounds: list[dict[str, Any]], seconds: Mapping[str, float]) -> dict[str, Any]:
    phases = ("train", "aggregate", "validate")
    whole = {**{phase: sum(one["seconds"].get(phase, 0.0) for one in rounds) for phase in phases}, **seconds}
    return {
        "seconds": {**whole, "total": sum(whole.values())},
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        * (1 if sys.platform == "darwin" else 1024),
        "bytes_up": sum(one["bytes_up"] for one in rounds),
        "bytes_down": sum(one["bytes_down"] for one in rounds),
        "parameters": first.parameters,
        "shared_parameters": first.shared,
    }
