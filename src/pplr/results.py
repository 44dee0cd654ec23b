"""From what clients measured to metrics.json, the per-user table, and examples to look at."""

from __future__ import annotations

import math
import platform
import resource
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from pplr.data.dataset import Ints, Part, Queries
from pplr.evaluation import (
    REFERENCES,
    Scorer,
    UserMetrics,
    balance,
    balances,
    evaluate,
    fit_baselines,
    per_client,
    together,
    top_items,
)
from pplr.federation.client import Client
from pplr.federation.events import Event, Observer
from pplr.federation.messages import Report
from pplr.fusion import Learned
from pplr.models.backbone import Backbone, CatalogueScorer
from pplr.models.generative import GenerativeBackbone
from pplr.seeds import numpy_generator
from pplr.wiring import Parts

SCHEMA = 1
SHOWN = 5
"""Items recommended in an example."""


@dataclass(frozen=True)
class Outcome:
    """What was measured on the test part.

    Attributes:
        reports: by client.
        sizes: training examples by client.
        baselines: per-user metrics by baseline, on the same users.
        seconds: wall time of `test` and `baselines`.
    """

    reports: Mapping[str, Report]
    sizes: Mapping[str, int]
    baselines: Mapping[str, UserMetrics]
    seconds: Mapping[str, float]

    def per_user(self) -> UserMetrics:
        """Return the metrics of all clients' users together."""
        return together([report.per_user for report in self.reports.values() if report.per_user is not None])

    def alone(self) -> UserMetrics | None:
        """Return the same of the models without their clients' own statistics; None where no client has such."""
        found = [report.alone for report in self.reports.values() if report.alone is not None]
        return together(found) if found else None


def measure_baselines(parts: Parts, clients: Sequence[Client], observer: Observer) -> dict[str, UserMetrics]:
    """Return per-user metrics of baselines and references, on the users that the clients are tested on."""
    evaluation, dataset = parts.config.evaluation, parts.seen
    queries = tested_queries(parts, clients)
    measured: dict[str, UserMetrics] = {}

    def measure(name: str, scorer: Scorer) -> None:
        measured[name] = evaluate(
            scorer, queries, parts.backbone.items, evaluation.ks, mask_history=evaluation.mask_history
        )

    for name, scorer in fit_baselines(dataset).items() if evaluation.baselines else ():
        observer(Event("baseline", data={"name": name}))
        measure(name, scorer)
    for name in evaluation.references:
        observer(Event("baseline", data={"name": name}))
        measure(name, REFERENCES[name](dataset, parts.assignment.client_of_user, parts.config.seed))
    return measured


def tested_queries(parts: Parts, clients: Sequence[Client]) -> Queries:
    """Return the test queries of all clients, sampled as the clients sample theirs."""
    every = parts.dataset.queries(Part.TEST)
    users = np.concatenate([client.queries(Part.TEST).users for client in clients])
    return every.select(np.flatnonzero(np.isin(every.users, users)).astype(np.int64))


def assemble(
    parts: Parts,
    outcome: Outcome,
    rounds: list[dict[str, Any]],
    stopped: Mapping[str, Any] | None,
    cost: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Return the contents of metrics.json (schema 1) for the clients that were measured; `cost` is taken over where it is given."""
    config = parts.config
    per_user = outcome.per_user()
    alone = outcome.alone()
    clients, balanced = _grouped(parts, per_user, outcome.reports)
    for name, report in outcome.reports.items():
        clients[name] |= {"users": report.users, "examples": outcome.sizes[name], "loss": _number(report.loss)}
        clients[name]["fusion"] = None if report.fusion is None else _fusion(report.fusion)
    losses = {name: report.loss for name, report in outcome.reports.items() if not math.isnan(report.loss)}
    if losses:
        balanced["loss"] = asdict(balance(losses, higher_is_better=False))
    total = sum(report.users for report in outcome.reports.values())
    measured = [(r.loss, r.users) for r in outcome.reports.values() if not math.isnan(r.loss)]
    asked = sum(users for _, users in measured)
    loss = sum(loss * users for loss, users in measured) / asked if asked else None
    return {
        "schema": SCHEMA,
        "name": config.name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": config.seed,
        "strategy": config.strategy.model_dump(mode="json"),
        "backbone": config.backbone.model_dump(mode="json"),
        "model": {"name": parts.model.name, "digest": parts.model.digest},
        "data": {
            "users": len(parts.dataset.user_ids) if parts.silo is None else sum(len(o.users) for o in parts.owners),
            "items": len(parts.dataset.catalogue),
            "events": len(parts.seen.items.values),
            "test_users": total,
            "split": config.data.split.kind,
            "notes": list(parts.notes),
        },
        "overall": {**per_user.overall(), "loss": loss, "users": total},
        "clients": clients,
        "balance": balanced,
        "model_alone": None if alone is None else _beside(parts, alone, outcome.reports),
        "baselines": {name: _beside(parts, users, outcome.reports) for name, users in outcome.baselines.items()},
        "rounds": rounds,
        "stopped": None if stopped is None else dict(stopped),
        "cost": dict(cost) if cost is not None else _cost(parts, outcome, rounds),
        "versions": {
            "pplr": version("pplr"),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": version("transformers"),
        },
        "device": str(parts.backbone.device),
        "threads": torch.get_num_threads(),
    }


def per_user_table(parts: Parts, outcome: Outcome) -> pl.DataFrame:
    """Return one row per test user: `user`, `client`, and a column per metric."""
    per_user = outcome.per_user()
    names = parts.assignment.names
    return pl.DataFrame(
        {
            "user": [parts.dataset.user_ids[code] for code in per_user.users],
            "client": [names[parts.assignment.client_of_user[code]] for code in per_user.users],
            **per_user.values,
        }
    )


def examples(
    parts: Parts, clients: Sequence[Client], rows: Mapping[str, Tensor], reports: Mapping[str, Report]
) -> list[dict[str, Any]]:
    """Return recommendations for a few test users of each client, with what they chose next."""
    shown = []
    for client in clients:
        queries = client.queries(Part.TEST)
        count = min(parts.config.evaluation.examples, len(queries))
        generator = numpy_generator(parts.config.seed, "examples", client.info.name)
        chosen = np.sort(generator.choice(len(queries), size=count, replace=False)).astype(np.int64)
        if count:
            with client.with_best() as (backbone, _):
                row = rows[client.info.name].to(backbone.device)
                learned = reports[client.info.name].fusion
                scorer = client.scorer(row, None if learned is None else learned.weights)
                shown += _examples_of(parts, client.info.name, backbone, row, scorer, queries.select(chosen))
    return shown


def _examples_of(
    parts: Parts, client: str, backbone: Backbone[Any], row: Tensor, scorer: CatalogueScorer, queries: Queries
) -> list[dict[str, Any]]:
    catalogue = parts.dataset.catalogue
    scores = scorer.scores(queries, wanted=SHOWN)
    masked = queries.histories if parts.config.evaluation.mask_history else None
    best = top_items(scores, masked, SHOWN, scorer.nothing)
    written: list[list[str]] = [[] for _ in range(len(queries))]
    if isinstance(backbone, GenerativeBackbone):
        from pplr.models.grounding import write, written_texts

        beams = write(backbone, backbone.layout.views(row), list(queries.histories), free=True)
        written = [list(entry.texts) for entry in written_texts(backbone, beams)]
    return [
        {
            "client": client,
            "user": parts.dataset.user_ids[queries.users[i]],
            "history": titles(catalogue.titles, queries.histories[i][-10:]),
            "chosen": titles(catalogue.titles, queries.targets[i][:SHOWN]),
            "recommended": [
                {
                    "rank": rank,
                    "id": catalogue.ids[item],
                    "title": catalogue.titles[item],
                    "score": float(scores[i, item]),
                }
                for rank, item in enumerate(best[i].tolist(), start=1)
                if item >= 0
            ],
            "written": written[i],
        }
        for i in range(len(queries))
    ]


def titles(names: tuple[str, ...], items: Ints) -> list[str]:
    """Return the titles of item codes."""
    return [names[item] for item in items]


def _grouped(
    parts: Parts, per_user: UserMetrics, names: Collection[str]
) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    means = per_client(per_user, parts.assignment.client_of_user, parts.assignment.names)
    means = {name: values for name, values in means.items() if name in names}
    known = {name: values for name, values in means.items() if not any(math.isnan(v) for v in values.values())}
    clean: dict[str, dict[str, Any]] = {
        name: {key: _number(value) for key, value in values.items()} for name, values in means.items()
    }
    return clean, {key: asdict(value) for key, value in balances(known).items()} if known else {}


def _fusion(learned: Learned) -> dict[str, Any]:
    validation = {"users": learned.users, "model_alone": _number(learned.alone), "mixed": _number(learned.mixed)}
    return {"weights": dict(learned.weights), "validation": validation}


def _beside(parts: Parts, users: UserMetrics, names: Collection[str]) -> dict[str, Any]:
    clients, balanced = _grouped(parts, users, names)
    return {"overall": users.overall(), "clients": clients, "balance": balanced}


def _cost(parts: Parts, outcome: Outcome, rounds: list[dict[str, Any]]) -> dict[str, Any]:
    phases = ("train", "aggregate", "validate")
    seconds = {phase: sum(r["seconds"].get(phase, 0.0) for r in rounds) for phase in phases}
    seconds = {**parts.seconds, **seconds, **outcome.seconds}
    layout = parts.backbone.layout
    return {
        "seconds": {**seconds, "total": sum(seconds.values())},
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        * (1 if sys.platform == "darwin" else 1024),
        "bytes_up": sum(r["bytes_up"] for r in rounds),
        "bytes_down": sum(r["bytes_down"] for r in rounds),
        "wire": parts.traffic(),
        "parameters": layout.size,
        "shared_parameters": layout.shared,
    }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
