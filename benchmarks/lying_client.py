"""How much one lying client of five harms the others, without a defence and with each of three.

    python benchmarks/lying_client.py [--rounds 6] [--examples 1500] [--users 500] [--only "pplr, items averaged/none/sign" ...]

The demo's data and clients, the backbone `sequence`. One client does not send what it has trained; it cannot be told from
the others by its name or its form. Figures are of the four honest clients: NDCG@10 over all their test users and of the
worst of them, with the row that each kept as its best on its own validation data, as the product does, and with the row
after the last round. Each client keeps the best row that it has seen, so that a poisoned round costs what it could have
learned, and not what it had. `stopped` is the round in which no quorum was left, so that the run could not go on. The result file is written after each cell, and cells that are in it are not run again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pplr.config import Config, parse_config
from pplr.data.dataset import Part
from pplr.demo import demo_config
from pplr.errors import RunError
from pplr.federation import Client, Coordinator
from pplr.federation.engines import Engine, InProcessEngine
from pplr.federation.events import Event, Observer, ignore
from pplr.federation.messages import Absence, ClientInfo, EvaluateTask, Report, TrainTask, Update
from pplr.seeds import torch_generator
from pplr.wiring import Parts, prepare
from result_file import write_result

HERE = Path(__file__).parent
MEASURE = "ndcg@10"
Lie = Callable[[Update, TrainTask, list[Tensor]], Update]
"""From a client's honest update, its task, and what other clients have changed in this round, to what it sends."""


def _scaled(factor: float) -> Lie:
    def lie(update: Update, task: TrainTask, others: list[Tensor]) -> Update:
        return replace(update, row=task.row + factor * (update.row - task.row))

    return lie


def _random(update: Update, task: TrainTask, others: list[Tensor]) -> Update:
    """Send noise of ten times the honest length."""
    change = update.row - task.row
    noise = torch.randn(len(change), generator=torch_generator(1, "noise", update.client, update.round))
    return replace(update, row=task.row + 10 * noise * change.norm() / noise.norm())


def _copied(update: Update, task: TrainTask, others: list[Tensor]) -> Update:
    """Send ten times what the first other client has changed."""
    return replace(update, row=task.row + 10 * others[0]) if others else update


def _loss(value: float) -> Lie:
    return lambda update, task, others: replace(update, loss=value)


LIES: dict[str, Lie | None] = {
    "nobody": None,
    "update x 10": _scaled(10.0),
    "update x 100": _scaled(100.0),
    "sign": _scaled(-1.0),
    "sign x 10": _scaled(-10.0),
    "random": _random,
    "copy": _copied,
    "low loss": _loss(1e-3),
    "high loss": _loss(99.0),
}
ADMISSION = {"norm_bound": 3.0, "loss_bound": 2.0}
ADDED, AVERAGED = "pplr, items added up", "pplr, items averaged"
RESCALED, PARAMETERS = "pplr", "pplr, similarity of parameters"
BASE: dict[str, dict[str, Any]] = {
    RESCALED: {"kind": "pplr"},
    PARAMETERS: {"kind": "pplr", "similarity": "parameters"},
    ADDED: {"kind": "pplr", "items": "sum"},
    AVERAGED: {"kind": "pplr", "items": "mean"},
    "fedavg": {"kind": "fedavg"},
}
ROBUST = "robust mixing"
REFUSED = [[name, ROBUST] for name in (RESCALED, PARAMETERS, ADDED)]
"""Strategies and defences that the program does not take together."""
DEFENCES: dict[str, tuple[dict[str, Any], dict[str, dict[str, Any]]]] = {
    "none": ({}, {}),
    "admission": (ADMISSION, {}),
    "clipping": ({"norm_clip": 1.0}, {}),
    ROBUST: (
        {},
        {
            AVERAGED: {**BASE[AVERAGED], "clip": 1.0},
            "fedavg": {"kind": "robust", "method": "trimmed_mean", "trim": 0.2},
        },
    ),
}
"""Name -> settings of the federation, and the strategy instead of each strategy."""


class LyingEngine:
    """Passes everything on, but one client's updates."""

    def __init__(self, engine: Engine, liar: str, lie: Lie) -> None:
        """Let `liar` answer with `lie`."""
        self._engine = engine
        self._liar = liar
        self._lie = lie

    @property
    def clients(self) -> tuple[ClientInfo, ...]:
        """All clients."""
        return self._engine.clients

    def train(
        self, tasks: Sequence[TrainTask], observer: Observer, seconds: float | None = None
    ) -> Iterator[Update | Absence]:
        """Give the others' updates as they are; the liar is asked last, and knows what they have changed."""
        others: list[Tensor] = []
        for task in sorted(tasks, key=lambda task: task.client == self._liar):
            started_from = task.row.clone()
            for answer in self._engine.train([task], observer, seconds):
                if isinstance(answer, Absence):
                    yield answer
                elif answer.client == self._liar:
                    yield self._lie(answer, replace(task, row=started_from), others)
                else:
                    others.append(answer.row - started_from)
                    yield answer

    def evaluate(self, tasks: Sequence[EvaluateTask], observer: Observer, seconds: float | None = None) -> list[Report]:
        """Return the reports."""
        return self._engine.evaluate(tasks, observer, seconds)

    def state(self) -> dict[str, Tensor]:
        """Return what the clients remember."""
        return self._engine.state()

    def restore(self, state: dict[str, Tensor]) -> None:
        """Make them remember it."""
        self._engine.restore(state)


def main(arguments: list[str] | None = None) -> None:
    """Run the cells that are missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--examples", type=int, default=1500, help="training examples of all clients")
    parser.add_argument("--users", type=int, default=500, help="users of each client that are measured, at most")
    parser.add_argument("--only", nargs="+", metavar="STRATEGY/DEFENCE/LIE", help="these cells alone")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=HERE / "results" / "lying_client.json")
    options = parser.parse_args(arguments)
    config = configuration(options.rounds, options.examples, options.users, options.threads)
    parts = prepare(config, ignore)
    liar = liar_of(parts)
    sizes = {owner.name: len(owner.users) for owner in parts.owners}
    facts = {
        "rounds": options.rounds, "examples": options.examples, "users": options.users, "clients": sizes, "liar": liar,
        "admission": ADMISSION,
    }  # fmt: skip
    cells = done(options.output, facts)
    for strategy, defence, lie in wanted(options.only):
        if not any((c["strategy"], c["defence"], c["lie"]) == (strategy, defence, lie) for c in cells):
            figures = measured(parts, strategy, defence, lie, liar)
            cells.append({"strategy": strategy, "defence": defence, "lie": lie, **figures})
            write_result(options.output, "lying_client", {**facts, "refused": REFUSED, "cells": cells})


def configuration(rounds: int, examples: int, users: int, threads: int) -> Config:
    """Return the demo's configuration, made smaller."""
    values = demo_config(fusion=False).model_dump(mode="json", exclude_none=True)
    values["threads"] = threads
    values["federation"] = {"rounds": rounds, "patience": rounds}
    values["training"] |= {"max_examples": examples, "moments": "fresh"}
    values["evaluation"] |= {"baselines": False, "max_users": users}
    return parse_config(values, Path())


def liar_of(parts: Parts) -> str:
    """Return the client of median size."""
    owners = sorted(parts.owners, key=lambda owner: len(owner.users))
    return owners[len(owners) // 2].name


def done(path: Path, facts: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the cells of an earlier result with the same sizes."""
    if not path.is_file():
        return []
    found = json.loads(path.read_text(encoding="utf-8"))
    return list(found["cells"]) if all(found.get(name) == value for name, value in facts.items()) else []


def wanted(only: list[str] | None) -> list[tuple[str, str, str]]:
    """Return the cells in the order in which they are run: those that say most come first."""
    cells = [(s, d, lie) for d in DEFENCES for lie in LIES for s in BASE if [s, d] not in REFUSED]
    if unknown := sorted(set(only or ()) - {"/".join(cell) for cell in cells}):
        raise SystemExit(
            f"There is no cell {unknown}. Strategies: {list(BASE)}; defences: {list(DEFENCES)}; lies: {list(LIES)}."
        )
    return [cell for cell in cells if only is None or "/".join(cell) in only]


def measured(parts: Parts, strategy: str, defence: str, lie: str, liar: str) -> dict[str, Any]:
    """Return the figures of one cell."""
    settings, instead = DEFENCES[defence]
    values = parts.config.model_dump(mode="json", exclude_none=True)
    values["strategy"] = instead.get(strategy, BASE[strategy])
    values["federation"] |= settings
    config = parse_config(values, Path())
    clients = replace(parts, config=config).trainers()
    events: list[Event] = []
    coordinator = federation(config, parts, clients, liar, LIES[lie], events.append)
    stopped = None
    try:
        coordinator.run()
    except RunError:  # the honest clients' losses are past all bounds, so that no quorum is left
        stopped = len(coordinator.progress.history) + 1
    honest = [client for client in clients if client.info.name != liar]
    last = coordinator.progress.history[-1].round
    tests: dict[str, dict[str, Report]] = {"kept": {}, "last": {}}
    for client in honest:
        name = client.info.name
        for which, row in (("kept", None), ("last", coordinator.bank.row(name))):
            tests[which][name] = client.evaluate(EvaluateTask(name, last, Part.TEST, row, rank=True))
    refused = [e for e in events if e.name == "quarantined"]
    return {
        **{which: quality(reports) for which, reports in tests.items()},
        "stopped": stopped,
        "quarantined": sum(e.client == liar for e in refused),
        "honest_quarantined": sum(e.client != liar for e in refused),
    }


def federation(
    config: Config, parts: Parts, clients: list[Client], liar: str, lie: Lie | None, observer: Observer
) -> Coordinator:
    """Return a coordinator over clients of which one may lie."""
    layout = parts.backbone.layout
    row = layout.initial_row(config.seed)[: layout.shared]
    engine: Engine = InProcessEngine(clients)
    if lie is not None:
        engine = LyingEngine(engine, liar, lie)
    return Coordinator(
        engine,
        config.strategy,
        config.federation,
        row,
        seed=config.seed,
        select_by=clients[0].select_by,
        aggregator=config.strategy.aggregator(layout, row),
        observer=observer,
    )


def quality(reports: dict[str, Report]) -> dict[str, float]:
    """Return NDCG@10 over all users of these clients, and that of the worst client."""
    users = sum(report.users for report in reports.values())
    total = sum(report.metrics[MEASURE] * report.users for report in reports.values())
    return {"overall": total / users, "worst": min(report.metrics[MEASURE] for report in reports.values())}


if __name__ == "__main__":
    main()
