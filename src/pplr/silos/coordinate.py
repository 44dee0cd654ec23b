"""The coordinator of silos on other machines: it has no data, no model and no tokenizer, only rows and numbers."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from flwr.serverapp import Grid
from torch import Tensor

from pplr import run_folder
from pplr.client_names import check_client_names
from pplr.config import Config, load_config
from pplr.data.dataset import Part
from pplr.errors import CannotResume, RunError
from pplr.federation.audit_log import AuditLog
from pplr.federation.checkpoints import CheckpointStore
from pplr.federation.coordinator import Coordinator
from pplr.federation.engines.flower import FlowerEngine
from pplr.federation.events import Event, EventLog, Observer
from pplr.federation.messages import EvaluateTask, Report
from pplr.models.hub import Kind, ModelFiles
from pplr.models.layout import Layout
from pplr.models.ranks import RankLimits
from pplr.run_folder import CHECKPOINTS, EVENTS, METRICS
from pplr.silos.announcement import Agreement, Announcement, agreed, other_settings, row_digest
from pplr.silos.codec import numbers
from pplr.silos.forget import forgotten
from pplr.silos.outcome import assemble
from pplr.silos.plan import MEETING, Plan
from pplr.silos.processes import LETTING_GO
from pplr.storage import write_text
from pplr.trunk.access import TrunkAccess
from pplr.wiring import reach_trunk, shares

TEST_DEADLINES = 10.0
"""Rounds' deadlines in which a silo reports of its test part, where rounds have one."""


@dataclass(frozen=True)
class Met:
    """What a coordinator knows once all silos have announced themselves.

    Attributes:
        engine: carries tasks to them.
        common: what they have in common.
        announced: what each says of itself, by name.
        layout: where each parameter stands in a row; without first values.
        row: [S] the shared row before the first round.
        seconds: how long they took.
    """

    engine: FlowerEngine
    common: Agreement
    announced: Mapping[str, Announcement]
    layout: Layout
    row: Tensor
    seconds: float


def coordinate(plan: Plan, grid: Grid) -> None:
    """Run a plan: wait for the silos, run the rounds, have the test part measured, and write the run folder.

    Raises:
        PplrError: something is wrong; the text says what to do.
    """
    config, folder = load_config(plan.config), Path(plan.folder)
    check_client_names(config, plan.silos)
    log = EventLog(folder / EVENTS, Path(plan.work) / MEETING)
    with run_folder.held(folder, wait=LETTING_GO):
        run_folder.check(folder, config, resume=plan.resume, overwrite=plan.overwrite)  # again: it may have been used
        met = meet(config, plan, grid, log)
        made_from = _made_from(met)
        if plan.resume:
            run_folder.check_origin(folder, made_from)
            if not run_folder.identity(folder):
                raise CannotResume(
                    f"The run in {folder} has no identity, by which silos know what they keep of it: an older version of pplr "
                    "has begun it. Go on with that version, or start again with --overwrite."
                )
        else:
            run_folder.claim(folder, config, made_from)
        met.engine.begin(run_folder.identity(folder))
        log.open()
        _train(config, folder, met, log, resume=plan.resume)


def meet(config: Config, plan: Plan, grid: Grid, observe: Observer) -> Met:
    """Wait until all silos have announced themselves, and make sure that they can work together.

    Raises:
        RunError: some did not come.
        ConfigError: they differ; a sentence for each thing in which they do.
    """
    started = time.perf_counter()
    gone = forgotten(Path(plan.folder)) if plan.resume else ()
    engine = FlowerEngine(grid, [name for name in plan.silos if name not in gone], observe, config.evaluation.ks)
    engine.meet(plan.meet_seconds, config.federation.start_with)
    announced = dict(engine.announced)
    common = agreed(config, announced.values())
    limit = config.training.max_examples
    engine.admit(
        _refusing(config, common), _examples(config, announced), None if limit is None else limit // len(plan.silos)
    )
    layout, row = engine.first_row(common.by)
    said = announced[common.by]
    if (row_digest(numbers(row).tobytes()), layout.digest) != (said.initial, said.layout):
        raise RunError(f"Silo {common.by} sends another first row than it has announced. Look at its log.")
    return Met(engine, common, announced, layout, row, time.perf_counter() - started)


def _refusing(config: Config, common: Agreement) -> Callable[[Announcement], str | None]:
    """Return what says why a silo that connects later, or again, cannot take part."""

    def refused(announced: Announcement) -> str | None:
        return " ".join([*common.differences(announced), *other_settings(config, announced)]) or None

    return refused


def _examples(config: Config, announced: Mapping[str, Announcement]) -> dict[str, int]:
    """Return how many training examples each silo may use."""
    sizes = {name: announced[name].examples for name in sorted(announced)}
    limit = config.training.max_examples
    return sizes if limit is None else dict(zip(sizes, shares(limit, list(sizes.values())), strict=True))


def _made_from(met: Met) -> dict[str, str]:
    first = met.announced[met.common.by]
    return {"items": first.catalogue, "model": first.weights, "parameters": first.layout}


def _train(config: Config, folder: Path, met: Met, observe: Observer, *, resume: bool) -> None:
    from pplr.report import write_report

    store = CheckpointStore(folder / CHECKPOINTS)
    going_on = resume and bool(store.rounds())
    trunk = _trunk(config, met)
    coordinator = Coordinator(
        met.engine,
        config.strategy,
        config.federation,
        met.row,
        seed=config.seed,
        select_by=met.announced[met.common.by].select_by,
        store=store,
        trunk=None if trunk is None else trunk.control(fresh=not going_on, forgotten=forgotten(folder)),
        aggregator=config.strategy.aggregator(met.layout, met.row),
        audit=AuditLog(folder),
        ranks=RankLimits(
            met.layout, config.backbone.adapter.ranks, [info.name for info in met.engine.clients], met.row
        ),
        observer=observe,
    )
    if going_on:
        coordinator.resume()
    progress = coordinator.run()
    observe(Event("stopped", data=coordinator.stopped))
    started = time.perf_counter()
    reports = _test(met.engine, progress.history[-1].round, observe, config.federation.deadline_seconds)
    seconds = {"connect": met.seconds, "test": time.perf_counter() - started}
    rounds = [record.model_dump(mode="json") for record in progress.history]
    announced = met.engine.announced
    sizes = {info.name: info.size for info in met.engine.clients}
    metrics = assemble(config, announced, sizes, reports, rounds, coordinator.stopped, seconds)
    write_text(folder / METRICS, json.dumps(metrics, indent=1))
    write_report(folder)
    observe(Event("run_finished", data={"folder": str(folder)}))
    if trunk is not None:
        trunk.close()


_KINDS = {"generative": Kind.DECODER}


def _trunk(config: Config, met: Met) -> TrunkAccess | None:
    first = met.announced[met.common.by]
    files = ModelFiles(first.model, Path(), _KINDS.get(config.backbone.kind, Kind.ENCODER), first.weights)
    return reach_trunk(config, files, [info.name for info in met.engine.clients])


def _test(engine: FlowerEngine, last: int, observe: Observer, deadline: float | None) -> dict[str, Report]:
    """Have every silo measure its best row on its test part; it tells means and counts.

    It has `TEST_DEADLINES` times as long as for a round: the whole catalogue is ranked for every user.
    """
    tasks = [EvaluateTask(info.name, last, Part.TEST, None, rank=True) for info in engine.clients if info.here]
    seconds = None if deadline is None else TEST_DEADLINES * deadline
    reports = {report.client: report for report in engine.evaluate(tasks, observe, seconds)}
    if tasks and not reports:
        raise RunError(
            "No silo has reported of its test part, so the run has no figures yet. Look after the silos, then go on with --resume."
        )
    for name, report in reports.items():
        observe(Event("tested", None, name, {"loss": report.loss, "users": report.users, **report.metrics}))
    return reports
