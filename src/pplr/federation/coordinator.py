"""The round loop: train, compare, mix, validate, keep. It sees rows and numbers, and no layer, text or interaction."""

from __future__ import annotations

import math
import time
from collections.abc import Container, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pplr.data.dataset import Part
from pplr.errors import CheckpointError, RunError
from pplr.federation.audit_log import AuditLog, Head, matrix_entry
from pplr.federation.checkpoints import Checkpoint, CheckpointStore
from pplr.federation.client import SelectBy
from pplr.federation.engines.base import Engine
from pplr.federation.events import Event, Observer
from pplr.federation.history import RoundRecord, client_round, improves, kept_details, kept_matrix, score_of
from pplr.federation.intake import Intake, row_digest
from pplr.federation.messages import EvaluateTask, Report, TrainTask
from pplr.federation.settings import FederationSettings
from pplr.federation.strategies import Aggregator, Cohort, Mixing, Strategy
from pplr.models.bank import AdapterBank, gram, squared_distances
from pplr.models.ranks import RankLimits
from pplr.seeds import numpy_generator
from pplr.trunk.control import TrunkControl


@dataclass
class Progress:
    """Where the run stands; with the bank and the engine's state this is all there is to a checkpoint.

    Attributes:
        history: the finished rounds.
        best_score: best validation score over all clients so far.
        best_round: the round that reached it; 0 before the first.
    """

    history: list[RoundRecord]
    best_score: float = -math.inf
    best_round: int = 0


class Coordinator:
    """Runs the rounds of one federation.

    Attributes:
        bank: the shared rows of all clients, in the order of their names.
        progress: the finished rounds.
    """

    def __init__(
        self,
        engine: Engine,
        strategy: Strategy,
        settings: FederationSettings,
        initial_row: Tensor,
        *,
        seed: int,
        select_by: SelectBy,
        store: CheckpointStore | None = None,
        trunk: TrunkControl | None = None,
        aggregator: Aggregator | None = None,
        audit: AuditLog | None = None,
        ranks: RankLimits | None = None,
        observer: Observer,
    ) -> None:
        """Make a coordinator; `trunk` is the server of a split model's layers, whose rows take part there.

        `aggregator` is the strategy's, where it has one; `audit` is told of every round; `ranks` are those of clients
        with lower ones than the rows are made for.
        """
        self._engine = engine
        self._strategy = strategy
        self._settings = settings
        self._seed = seed
        self._select_by = select_by
        self._store = store
        self._trunk = trunk
        self._aggregator = aggregator
        self._audit = audit
        self._audited: Head | None = None
        self._ranks = ranks
        self._observe = observer
        self.bank = AdapterBank.of_equal_rows([client.name for client in engine.clients], initial_row)
        if ranks is not None:
            ranks.fit_(self.bank.rows)
        self.progress = Progress([])

    def resume(self) -> None:
        """Go back to the newest checkpoint.

        Raises:
            CheckpointError: there is none, it is damaged, or it belongs to other clients or another model.
        """
        if self._store is None:
            raise CheckpointError("This run keeps no checkpoints, so it cannot be resumed. Give it a folder.")
        checkpoint = self._store.newest()
        if checkpoint.clients != self.bank.clients or checkpoint.rows.shape != self.bank.rows.shape:
            raise CheckpointError(
                f"The checkpoint holds {len(checkpoint.clients)} clients with rows of {checkpoint.rows.shape[1]:,} "
                f"numbers, this run has {len(self.bank)} with {self.bank.rows.shape[1]:,}: the data or the model has "
                "changed. Start again without --resume, in another folder."
            )
        if self._trunk is not None:
            self._trunk.restore(checkpoint.round)
        self._engine.restore(checkpoint.engine)
        if self._aggregator is not None:
            self._aggregator.restore(checkpoint.server)
        self.bank = AdapterBank(checkpoint.clients, checkpoint.rows.to(self.bank.rows.device))
        history = [RoundRecord.model_validate(record) for record in checkpoint.state["history"]]
        audited = checkpoint.state.get("audit")
        self._audited = None if audited is None else Head.parse(audited)
        score = checkpoint.state["best_score"]
        self.progress = Progress(history, -math.inf if score is None else score, checkpoint.state["best_round"])
        self._observe(Event("resumed", checkpoint.round))

    @property
    def finished(self) -> bool:
        """All rounds are done, or the validation score has not improved for too long."""
        done = len(self.progress.history)
        waited = done - max(self.progress.best_round, *self._settings.joins.values(), 0)
        return done >= self._settings.rounds or waited >= self._settings.patience

    @property
    def stopped(self) -> dict[str, Any]:
        """After which round the run has ended, which was the best, and why it ended: as in metrics.json."""
        done = len(self.progress.history)
        reason = "rounds" if done >= self._settings.rounds else "patience"
        return {"round": done, "best_round": self.progress.best_round, "reason": reason}

    def run(self) -> Progress:
        """Run rounds until finished, with a checkpoint after each, and return where the run stands.

        Raises:
            RunError: too few updates count, or the audit log of an earlier part of this run was changed.
        """
        if self._audit is not None:
            self._audit.open(len(self.progress.history), self._audited, self._facts())
        while not self.finished:
            record = self._round(len(self.progress.history) + 1)
            better = improves(record, self.progress.history, self.progress.best_round, self._select_by)
            self.progress.history.append(record)
            if better:
                self.progress.best_round = record.round
                self.progress.best_score = -math.inf if record.score is None else record.score
            self._save(record.round)
        if self._audit is not None:
            self._audit.append("ended", self.stopped)
        return self.progress

    def _facts(self) -> dict[str, Any]:
        """Return what decides the rounds, for the audit log."""
        ranks = {} if self._ranks is None or not self._ranks.given else {"ranks": dict(self._ranks.given)}
        return ranks | {
            "clients": list(self.bank.clients),
            "seed": self._seed,
            "strategy": self._strategy.model_dump(mode="json"),
            "federation": self._settings.model_dump(mode="json"),
        }

    def _round(self, number: int) -> RoundRecord:
        clock = [time.perf_counter()]
        here = self._settings.here(self._engine.clients, number)
        names = self._participants(number, here)
        self._observe(Event("round_started", number, data={"rounds": self._settings.rounds, "clients": list(names)}))
        received = self.bank.rows.clone() if self._needs_received else None
        if self._trunk is not None:
            self._trunk.begin_round(number)
        progress = (number - 1) / self._settings.rounds
        known = {name for record in self.progress.history for name, one in record.clients.items() if one.trained}
        tasks = [TrainTask(name, number, progress, self.bank.row(name)) for name in names]
        sent = self._digests(names)
        intake = self._taken_in(tasks, received)
        if self._trunk is not None and intake.absent:
            self._trunk.leave_out(sorted(intake.absent), number)
        clock.append(time.perf_counter())
        mixing = self._aggregate(number, intake, received, known, here)
        self._note(number, sent, intake, mixing)
        clock.append(time.perf_counter())
        reports = self._validate(number, here, intake.updates)
        clock.append(time.perf_counter())
        seconds = dict(zip(("train", "aggregate", "validate"), np.diff(clock).tolist(), strict=True))
        record = self._record(number, here, intake, reports, mixing, seconds | {"total": clock[-1] - clock[0]})
        self._observe(Event("round_finished", number, data={"score": record.score, "seconds": record.seconds}))
        return record

    def _digests(self, names: Sequence[str]) -> dict[str, str]:
        """Return digests of these clients' rows, where somebody wants them."""
        return {} if self._audit is None else {name: row_digest(self.bank.row(name)) for name in names}

    def _note(self, number: int, sent: dict[str, str], intake: Intake, mixing: Mixing) -> None:
        """Tell the audit log of a round, before any mixed row leaves."""
        if self._audit is None:
            return
        refused = {
            name: {"reason": intake.absent[name], "sha256": intake.digests.get(name)}
            for name in sorted(intake.quarantined)
        }
        entry = {
            "round": number,
            "sent": sent,
            "admitted": {name: intake.digests[name] for name in sorted(intake.updates)},
            "shortened": intake.shortened,
            "refused": refused,
            "absent": {name: why for name, why in sorted(intake.absent.items()) if name not in intake.quarantined},
            "mixing": matrix_entry(mixing.matrix),
            "mixed": self._digests(self.bank.clients),
        }
        self._audit.append("round", entry)
        self._observe(Event("audited", number, data=asdict(self._audit.head)))

    @property
    def _needs_received(self) -> bool:
        """The rows before training are needed afterwards: to compare, or to take a row back."""
        settings = self._settings
        bounds = (settings.norm_bound, settings.norm_clip, settings.loss_bound)
        told = self._aggregator is not None and self._aggregator.needs_received
        return told or self._strategy.similarity_of == "updates" or any(bound is not None for bound in bounds)

    def _taken_in(self, tasks: Sequence[TrainTask], received: Tensor | None) -> Intake:
        """Have the tasks done, and take in the answers as they arrive.

        Raises:
            RunError: fewer of them count than make a quorum.
        """
        intake = Intake(tasks, self.bank, received, self._settings, self._observe)
        for answer in self._engine.train(tasks, self._observe, self._settings.deadline_seconds):
            intake.take(answer)
            del answer  # it holds a row
        intake.close()
        needed = self._settings.needed(len(tasks))
        if len(intake.updates) >= needed:
            return intake
        why = "; ".join(f"{name}: {reason}" for name, reason in sorted(intake.absent.items()))
        raise RunError(
            f"Round {tasks[0].round} has usable updates of {len(intake.updates)} of {len(tasks)} clients, and {needed} are "
            f"needed (federation.quorum = {self._settings.quorum:g}). Left out: {why}. Look after them, then go on with "
            "--resume."
        )

    def _participants(self, number: int, names: Sequence[str]) -> list[str]:
        count = self._settings.per_round(len(names))
        if count == len(names):
            return list(names)
        chosen = numpy_generator(self._seed, "participants", number).choice(len(names), size=count, replace=False)
        return [names[index] for index in sorted(chosen)]

    def _aggregate(
        self, number: int, intake: Intake, received: Tensor | None, known: set[str], here: Sequence[str]
    ) -> Mixing:
        """Mix the rows; `known` are those that have trained in an earlier round, `here` those that can be asked."""
        similarity_of = self._strategy.similarity_of
        products = None if similarity_of is None else self._gram(received if similarity_of == "updates" else None)
        updates, names = intake.updates, self.bank.clients
        trained = {name for name, update in updates.items() if update.targets > 0}  # the others learned nothing
        missed = intake.absent.keys() - intake.quarantined | (set(names) - set(here))
        for record in self.progress.history:
            missed |= {*record.awaited, *record.absent} - {*record.quarantined}
        cohort = Cohort(
            number,
            np.array([name in trained for name in names]),
            np.array([float(client.size) for client in self._engine.clients]),
            np.array([updates[name].loss if name in trained else math.nan for name in names]),
            products,
            self._distances() if self._strategy.needs_distances else None,
            np.array([name in missed and name not in known for name in names]),
        )
        mixing = self._strategy.mixing(cohort)
        if mixing.matrix is not None and not np.isfinite(mixing.matrix).all():
            raise RunError(
                f"Round {number}: the strategy's matrix has numbers that are not finite. Look at the losses and rows of this "
                "round; federation.norm_bound and federation.loss_bound refuse updates that are far from the others'."
            )
        if self._aggregator is not None:
            self._aggregator.combine_(self.bank.rows, mixing, cohort, received)
        elif mixing.matrix is None:
            raise ValueError(f"The strategy {type(self._strategy).__name__} needs its aggregator.")
        elif not np.array_equal(mixing.matrix, np.eye(len(self.bank))):
            self.bank.mix_(torch.from_numpy(mixing.matrix))
            if self._trunk is not None:
                self._trunk.mix(torch.from_numpy(mixing.matrix), number)
        if self._ranks is not None:
            by_matrix = self._aggregator is None or self._aggregator.by_matrix
            self._ranks.fit_(self.bank.rows, mixing.matrix if by_matrix else None)
        return mixing

    def _gram(self, received: Tensor | None) -> NDArray[np.float64]:
        """Return the inner products of whole rows: what is here and what is with the trunk adds up."""
        products = gram(self.bank.rows, received).cpu()
        if self._trunk is not None:
            products += self._trunk.gram(updates=received is not None)
        return products.numpy()

    def _distances(self) -> NDArray[np.float64]:
        """Return the distances between whole rows, by the inner products of what each differs from their mean."""
        products = gram(self.bank.rows, self.bank.rows.mean(0, keepdim=True)).cpu().numpy()
        squares = squared_distances(products)
        if self._trunk is not None:
            squares = squares + squared_distances(self._trunk.gram(updates=False).numpy())
        return np.asarray(np.sqrt(squares), dtype=np.float64)

    def _validate(self, number: int, names: Sequence[str], trained: Container[str]) -> list[Report]:
        rank = self._select_by != "loss"
        tasks = [
            EvaluateTask(name, number, Part.VALIDATION, self.bank.row(name), rank, trained=name in trained)
            for name in names
        ]
        reports = self._engine.evaluate(tasks, self._observe, self._settings.deadline_seconds)
        for report in reports:
            data: dict[str, Any] = {"loss": report.loss, "improved": report.improved, **report.metrics}
            self._observe(Event("client_validated", number, report.client, data))
        return reports

    def _record(
        self,
        number: int,
        here: Sequence[str],
        intake: Intake,
        reports: Sequence[Report],
        mixing: Mixing,
        seconds: dict[str, float],
    ) -> RoundRecord:
        row_bytes = self.bank.rows.shape[1] * self.bank.rows.element_size() if self._strategy.exchanges else 0
        by_client = {report.client: report for report in reports}
        clients = {name: client_round(intake.updates.get(name), by_client.get(name)) for name in self.bank.clients}
        return RoundRecord(
            round=number,
            clients=clients,
            score=score_of(clients.values(), self._select_by),
            mixing=kept_matrix(mixing.matrix),
            details=kept_details(mixing.details),
            seconds=seconds,
            bytes_up=row_bytes * len(intake.digests),
            bytes_down=row_bytes
            * (len(intake.updates) + len(intake.absent) + len(here)),  # to train on, and to measure
            absent=intake.absent,
            quarantined=sorted(intake.quarantined),
            awaited=sorted(set(self.bank.clients) - set(here)),
        )

    def _save(self, number: int) -> None:
        if self._store is None:
            return
        score = self.progress.best_score
        state: dict[str, Any] = {
            "history": [record.model_dump() for record in self.progress.history],
            "best_score": score if math.isfinite(score) else None,
            "best_round": self.progress.best_round,
        }
        if self._audit is not None:
            state["audit"] = asdict(self._audit.head)
        if self._trunk is not None:
            self._trunk.save(number)  # first: a checkpoint without its trunk would be none
        server = {} if self._aggregator is None else self._aggregator.state()
        self._store.save(Checkpoint(number, self.bank.rows, self.bank.clients, self._engine.state(), state, server))
        self._observe(Event("checkpoint", number))
