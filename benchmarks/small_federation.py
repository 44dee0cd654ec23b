"""A short federation in this process, as the benchmarks of memory and overhead need it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pplr.config import Config, parse_config
from pplr.federation import Client, Coordinator
from pplr.federation.checkpoints import CheckpointStore
from pplr.federation.engines import InProcessEngine
from pplr.federation.events import Observer, ignore
from pplr.federation.history import RoundRecord
from pplr.federation.messages import EvaluateTask, Report
from pplr.wiring import Parts


class MeteredEngine(InProcessEngine):
    """The in-process engine, which also adds up the seconds of its evaluations."""

    evaluation_seconds = 0.0

    def evaluate(self, tasks: Sequence[EvaluateTask], observer: Observer, seconds: float | None = None) -> list[Report]:
        """Return one report per task."""
        reports = super().evaluate(tasks, observer, seconds)
        self.evaluation_seconds += sum(report.seconds for report in reports)
        return reports


@dataclass(frozen=True)
class Finished:
    """What a federation took.

    Attributes:
        seconds: wall time of all rounds, checkpoints included.
        evaluation: of these, inside the clients' evaluations.
        rounds: the finished rounds.
    """

    seconds: float
    evaluation: float
    rounds: list[RoundRecord]


def configuration(
    data: dict[str, Any], backbone: dict[str, Any], training: dict[str, Any], *, rounds: int, max_users: int | None
) -> Config:
    """Return the configuration of five clients, users dealt at random."""
    sections = {
        "data": data,
        "clients": {"kind": "random", "count": 5},
        "backbone": backbone,
        "training": training,
        "federation": {"rounds": rounds},
        "evaluation": {"max_users": max_users},
    }
    return parse_config(sections, Path())


def federate(parts: Parts, clients: list[Client], folder: Path, observer: Observer = ignore) -> Finished:
    """Run all rounds of `parts.config` with `clients`, and a checkpoint after each in `folder`."""
    config, engine = parts.config, MeteredEngine(clients)
    coordinator = Coordinator(
        engine,
        config.strategy,
        config.federation,
        parts.backbone.layout.initial_row(config.seed)[: parts.backbone.layout.shared],
        seed=config.seed,
        select_by=parts.backbone.selects_by,
        store=CheckpointStore(folder),
        observer=observer,
    )
    started = time.perf_counter()
    progress = coordinator.run()
    return Finished(time.perf_counter() - started, engine.evaluation_seconds, progress.history)
