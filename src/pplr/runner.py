"""One run from configuration to report. `pplr.run` is this module's `run`."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from pplr import run_folder
from pplr.config import Config, load_config
from pplr.data.dataset import Part
from pplr.errors import ConfigError, RunError
from pplr.federation import Client, Coordinator
from pplr.federation.audit_log import AuditLog
from pplr.federation.checkpoints import CheckpointStore
from pplr.federation.coordinator import Progress
from pplr.federation.engines import InProcessEngine
from pplr.federation.events import Event, EventLog, Observer, ignore, several
from pplr.federation.messages import EvaluateTask, Report
from pplr.fusion import MODEL, NEW, Weights
from pplr.memory import enough_memory
from pplr.models.peft_format import export_adapter
from pplr.models.ranks import limit_rank_
from pplr.results import Outcome, assemble, examples, measure_baselines, per_user_table
from pplr.run_folder import (
    ADAPTERS,
    CHECKPOINTS,
    CONFIG,
    EVENTS,
    EXAMPLES,
    FUSION,
    ITEM_VECTORS,
    METRICS,
    PER_USER,
    ROWS,
)
from pplr.shelf import Shelf
from pplr.storage import delete, write_bytes, write_folder, write_text
from pplr.wiring import POOLED, Parts, prepare

Weight = Annotated[float, Field(allow_inf_nan=False)]
"""Of a client's model or one of its statistics, or what new items get."""


@dataclass(frozen=True)
class RunResult:
    """A finished run.

    Attributes:
        folder: the run folder.
        metrics: what metrics.json holds.
    """

    folder: Path
    metrics: dict[str, Any]


@enough_memory()
def run(
    config: Config,
    out: Path | None = None,
    *,
    resume: bool = False,
    overwrite: bool = False,
    observer: Observer = ignore,
    shelf: Shelf | None = None,
) -> RunResult:
    """Train, evaluate and report what `config` describes; everything is written below `out` (runs/NAME by default).

    With `resume` a run that was interrupted goes on after its newest checkpoint, and ends as if it had not been. Runs
    that are given one `shelf` share what they load.

    Raises:
        RunError: the folder is occupied, belongs to another configuration, or has lost its checkpoints.
        PplrError: anything else that is wrong, with a sentence that says what to do.
    """
    folder = (out or Path("runs") / config.name).resolve()
    run_folder.check(folder, config, resume=resume, overwrite=overwrite)
    log = EventLog(folder / EVENTS)
    observe = several([log, observer])
    parts = prepare(config, observe, shelf=shelf)
    with parts.reached(), run_folder.held(folder):  # nothing in the folder was touched before
        run_folder.check(folder, config, resume=resume, overwrite=overwrite)  # again: another process may have used it
        if resume:
            run_folder.check_origin(folder, parts.origin())
            if not CheckpointStore(folder / CHECKPOINTS).rounds():
                run_folder.check_rounds_kept(folder)
        else:
            run_folder.claim(folder, config, parts.origin())
        log.open()
        return _train(folder, parts, resume, observe)


def _train(folder: Path, parts: Parts, resume: bool, observe: Observer) -> RunResult:
    config, trainers = parts.config, parts.trainers()
    observe = _metered(observe, parts)
    store = CheckpointStore(folder / CHECKPOINTS)
    going_on = resume and bool(store.rounds())
    layout = parts.backbone.layout
    row = layout.initial_row(config.seed)[: layout.shared].to(parts.backbone.device)
    engine = InProcessEngine(trainers)
    coordinator = Coordinator(
        engine,
        config.strategy,
        config.federation,
        row,
        seed=config.seed,
        select_by=trainers[0].select_by,
        store=store,
        trunk=None if parts.trunk is None else parts.trunk.control(fresh=not going_on),
        aggregator=config.strategy.aggregator(layout, row),
        audit=AuditLog(folder),
        ranks=parts.ranks([client.name for client in engine.clients], row),
        observer=observe,
    )
    if going_on:
        coordinator.resume()
    progress = coordinator.run()
    stopped = coordinator.stopped
    observe(Event("stopped", data=stopped))
    rows = _best_rows(parts, trainers)
    save_rows(folder, parts, rows)
    metrics = _measure(folder, parts, trainers, rows, progress, stopped, observe)
    observe(Event("run_finished", data={"folder": str(folder)}))
    return RunResult(folder, metrics)


def _metered(observe: Observer, parts: Parts) -> Observer:
    """Return an observer that adds to each finished round what has travelled to and from a model's server so far."""

    def metering(event: Event) -> None:
        observe(event)
        if event.name == "round_finished" and parts.travels:
            observe(Event("traffic", event.round, data={"wire": parts.traffic()}))

    return metering


@enough_memory()
def evaluate_run(folder: Path, observer: Observer = ignore) -> dict[str, Any]:
    """Measure a finished run again, from its rows, and return its metrics with the new figures; nothing is written.

    Raises:
        RunError: there is no finished run in the folder.
    """
    from pplr.report.folder import read_metrics

    before = read_metrics(folder).model_dump(mode="json", by_alias=True)
    parts, rows = open_run(folder, observer)
    with parts.reached():
        fresh, _ = _outcome(parts, parts.trainers(), rows, observer)
    return assemble(parts, fresh, before["rounds"], before["stopped"], before["cost"])


def open_run(folder: Path, observer: Observer = ignore) -> tuple[Parts, dict[str, Tensor]]:
    """Return what a finished run was made of, as it was then, and its rows [P] by client.

    Raises:
        RunError: there is no finished run in the folder, or something has changed since.
    """
    config, rows = load_run(folder)
    vectors = run_folder.recorded(folder, ITEM_VECTORS)
    parts = prepare(config, observer, run_folder.silo_of(folder), vectors=vectors)
    run_folder.check_origin(folder, parts.origin())
    _check_rows(folder, parts, rows)
    return parts, rows


def load_run(folder: Path) -> tuple[Config, dict[str, Tensor]]:
    """Return the configuration of a finished run and its rows [P] by client.

    Raises:
        RunError: there is no finished run in the folder, or it is damaged.
    """
    if not (folder / CONFIG).is_file():
        raise RunError(f"There is no run in {folder}: it has no {CONFIG}. Give the folder that `pplr run` printed.")
    if run_folder.of_silos(folder):
        raise RunError(
            f"The run in {folder} was one over silos: each has its own row. Give the folder `result` of a silo's state."
        )
    if not (folder / ROWS).is_file() or not (folder / METRICS).is_file():
        raise RunError(f"The run in {folder} is not finished. {run_folder.go_on(folder)}")
    try:
        config = load_config(folder / CONFIG)
    except ConfigError as problem:
        raise RunError(
            f"The run in {folder} is damaged: {problem} Bring the file back from a copy, or run again with --overwrite."
        ) from problem
    try:
        return config, load_file(folder / ROWS)
    except (OSError, SafetensorError) as problem:
        raise RunError(
            f"{folder / ROWS} is damaged: {problem}. It is written again from the last checkpoint. {run_folder.go_on(folder)}"
        ) from problem


def save_rows(folder: Path, parts: Parts, rows: Mapping[str, Tensor]) -> None:
    """Write the row of each client: all in one file, and each as an adapter folder that PEFT reads."""

    def fill(target: Path) -> None:
        for name, row in rows.items():
            export_adapter(
                target / name,
                parts.backbone.layout,
                row.cpu(),
                parts.backbone.adapted,
                base_model=parts.model.name,
                task_type="CAUSAL_LM" if parts.config.backbone.kind == "generative" else "FEATURE_EXTRACTION",
                rank=parts.config.backbone.adapter.ranks.get(name),
            )

    write_folder(folder / ADAPTERS, fill)
    write_bytes(folder / ROWS, save({name: row.cpu().clone() for name, row in rows.items()}))


def save_fusion(folder: Path, reports: Iterable[Report]) -> None:
    """Write the weights of each client's model and its own statistics; no file where clients have no such."""
    weights = {report.client: dict(report.fusion.weights) for report in reports if report.fusion is not None}
    if weights:
        write_text(folder / FUSION, json.dumps(weights, indent=1))
    else:
        delete(folder / FUSION)


def load_fusion(folder: Path, config: Config, clients: Collection[str]) -> Mapping[str, Weights]:
    """Return the weights of each client's model and its own statistics; none where the run's clients have no such.

    Raises:
        RunError: the file is missing or damaged.
    """
    if not config.fusion.statistics:
        return {}
    path, known = folder / FUSION, {MODEL, *config.fusion.statistics, NEW}
    try:
        weights = TypeAdapter(dict[str, dict[str, Weight]]).validate_json(path.read_bytes())
    except (OSError, ValidationError):
        weights = {}
    if weights.keys() == set(clients) and all(_usable(found, known) for found in weights.values()):
        return weights
    raise RunError(
        f"{path} is missing or damaged: it does not give each client the weights of its statistics. It is written again from "
        f"the last checkpoint. {run_folder.go_on(folder)}"
    )


def _usable(weights: Weights, known: Collection[str]) -> bool:
    """Return whether these are weights of a model and some of the statistics, none negative but that of new items."""
    return MODEL in weights and all(name in known and (each >= 0 or name == NEW) for name, each in weights.items())


def _measure(
    folder: Path,
    parts: Parts,
    trainers: list[Client],
    rows: Mapping[str, Tensor],
    progress: Progress,
    stopped: dict[str, Any],
    observe: Observer,
) -> dict[str, Any]:
    from pplr.report import write_report

    outcome, clients = _outcome(parts, trainers, rows, observe)
    save_fusion(folder, outcome.reports.values())
    rounds = [record.model_dump(mode="json") for record in progress.history]
    metrics = assemble(parts, outcome, rounds, stopped, None)
    table = io.BytesIO()
    per_user_table(parts, outcome).write_parquet(table)
    write_bytes(folder / PER_USER, table.getvalue())
    write_text(
        folder / EXAMPLES, json.dumps(examples(parts, clients, rows, outcome.reports), ensure_ascii=False, indent=1)
    )
    write_text(folder / METRICS, json.dumps(metrics, indent=1))
    write_report(folder)
    return metrics


def _outcome(
    parts: Parts, trainers: list[Client], rows: Mapping[str, Tensor], observe: Observer
) -> tuple[Outcome, list[Client]]:
    """Measure every client's row on its test part; where one trainer pooled all data, the owners are measured."""
    started = time.perf_counter()
    clients = parts.clients(parts.owners) if parts.config.strategy.pools_data else trainers
    reports: dict[str, Report] = {}
    for client in clients:
        client.best = rows[client.info.name].to(parts.backbone.device)
        observe(Event("evaluating", None, client.info.name, {"part": "test"}, transient=True))
        report = client.evaluate(EvaluateTask(client.info.name, 0, Part.TEST, None, rank=True))
        reports[client.info.name] = report
        observe(Event("tested", None, client.info.name, {"loss": report.loss, "users": report.users, **report.metrics}))
    tested = time.perf_counter()
    baselines = measure_baselines(parts, clients, observe)
    seconds = {"test": tested - started, "baselines": time.perf_counter() - tested}
    return Outcome(reports, {client.info.name: client.info.size for client in clients}, baselines, seconds), clients


def _best_rows(parts: Parts, trainers: list[Client]) -> dict[str, Tensor]:
    if parts.config.federation.rounds == 0:
        ranks, untrained = parts.config.backbone.adapter.ranks, {}
        for owner in parts.owners:
            row = untrained[owner.name] = parts.backbone.layout.initial_row(parts.config.seed).to(parts.backbone.device)
            if owner.name in ranks:
                limit_rank_(parts.backbone.layout, row, ranks[owner.name])
        return untrained
    best = {client.info.name: client.best_row() for client in trainers}
    return {owner.name: best[owner.name if owner.name in best else POOLED] for owner in parts.owners}


def _check_rows(folder: Path, parts: Parts, rows: Mapping[str, Tensor]) -> None:
    size = parts.backbone.layout.size
    for owner in parts.owners:
        row = rows.get(owner.name)
        if row is None or len(row) != size or not bool(torch.isfinite(row).all()):
            raise RunError(
                f"The run in {folder} has no usable row for client {owner.name}: its data, model or configuration has "
                "changed since. Run it again."
            )
