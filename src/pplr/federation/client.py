"""A client: one silo's data, the shared frozen backbone, and the little that the silo remembers between rounds."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from pplr.data.dataset import ClientData, Ints, Part, Queries
from pplr.errors import CheckpointError, NumericalError
from pplr.evaluation import UserMetrics, evaluate, together
from pplr.evaluation.ranking import finite_scores
from pplr.federation.item_vectors import ItemVectors
from pplr.federation.messages import ClientInfo, EvaluateTask, Report, TrainTask, Update
from pplr.federation.strategies import LocalObjective
from pplr.fusion import FusedScorer, Fusion, Given, Learned, Weights
from pplr.models.backbone import Backbone, CatalogueScorer, Parameters
from pplr.models.ranks import limit_rank_
from pplr.seeds import numpy_generator
from pplr.training import (
    LocalResult,
    Moments,
    Place,
    Pull,
    StepProgress,
    TrainingSettings,
    fitting,
    mean_loss,
    train_locally,
)
from pplr.trunk.stub import StubTrunk

SelectBy = Literal["ndcg@10", "loss"]
Trained = Literal["shared", "personal"]
"""Which of a client's rows is trained: the one that it receives, or its own beside it."""
ROWS: tuple[Trained, ...] = ("shared", "personal")
MOMENTS = "moments."
"""Before the names of moments in what a client remembers."""


@dataclass(frozen=True)
class Measuring:
    """How clients measure themselves.

    Attributes:
        ks: cut-offs of recall and NDCG.
        max_users: at most this many held-out users per client and part, sampled once; None for all.
        mask_history: items of the history cannot be recommended.
        select_by: the validation measure by which the best row is kept.
        batch_users: users that are ranked at once.
        validation_users: of these, at most this many for validation; None for all of them.
    """

    ks: tuple[int, ...]
    max_users: int | None
    mask_history: bool
    select_by: SelectBy
    batch_users: int = 256
    validation_users: int | None = None

    def limit(self, part: Part) -> int | None:
        """Return how many users of a part are asked at most; None for all."""
        limits = [self.max_users, self.validation_users if part is Part.VALIDATION else None]
        return min((limit for limit in limits if limit is not None), default=None)


class Client:
    """Trains and measures rows on the data of one silo, which never leaves it.

    Attributes:
        info: name and size.
        private: [P - S] the parameters that are never shared.
        personal: [P] the client's own row beside the shared one, by which it is measured; None without such an objective.
        moments: what the optimiser goes on from, by "shared" and "personal" for the row that it trains; empty where each round
            starts afresh.
        best: [P] the whole row with the best validation score so far, or None before the first validation.
        best_score: its score, higher is better; minus infinity at first.
    """

    def __init__(
        self,
        data: ClientData,
        backbone: Backbone[Any],
        training: TrainingSettings,
        measuring: Measuring,
        seed: int,
        trunk: StubTrunk | None = None,
        objective: LocalObjective = LocalObjective(),  # noqa: B008 - frozen
        fusion: Fusion | None = None,
        rank: int | None = None,
        vectors: ItemVectors | None = None,
    ) -> None:
        """Make a client; with a `trunk` that a server holds, the backbone's trunk is that one.

        With a `fusion` it is tested, and recommends, by its model and its own statistics together. Of adapters it has
        the first `rank` components, where that is given. Clients of one backbone share `vectors`; absent: its own.
        """
        self._data = data
        self._backbone = backbone if trunk is None else backbone.behind(trunk)
        self._trunk = trunk
        self._training = training
        self._measuring = measuring
        self._seed = seed
        self._objective = objective
        self._fusion = fusion
        self._rank = rank
        self._vectors = vectors or ItemVectors(backbone)
        self._every_example = self._examples = backbone.examples(data.training)
        self._queries = {
            Part.VALIDATION: self._sampled(data.validation, Part.VALIDATION, measuring.limit(Part.VALIDATION)),
            Part.TEST: self._sampled(data.test, Part.TEST, measuring.limit(Part.TEST)),
        }
        self.info = ClientInfo(data.name, len(self._examples))
        shared = backbone.layout.shared
        initial = self._limited(backbone.layout.initial_row(seed).to(backbone.device))
        self.private: Tensor = initial[shared:].clone()
        self.personal: Tensor | None = None if objective.personal is None else initial
        self.moments: dict[Trained, Moments] = {}
        self._before: tuple[int, Tensor, Tensor | None, dict[Trained, Moments]] | None = None
        self.best: Tensor | None = None
        self.best_score = -math.inf

    @property
    def select_by(self) -> SelectBy:
        """The validation measure by which the best row is kept."""
        return self._measuring.select_by

    @property
    def users(self) -> Ints:
        """User codes of this client."""
        return self._data.users

    def queries(self, part: Part) -> Queries:
        """Return the held-out queries that this client measures itself on."""
        return self._queries[part]

    def state(self) -> dict[str, Tensor]:
        """Return what this client remembers between rounds, in one piece: for a checkpoint, or for its own disk."""
        tensors = {"private": self.private, "best_score": torch.tensor([self.best_score], dtype=torch.float64)}
        further = {"best": self.best, "personal": self.personal}
        tensors |= {name: row for name, row in further.items() if row is not None}
        return tensors | {
            f"{MOMENTS}{row}.{name}": kept for row, own in self.moments.items() for name, kept in own.items()
        }

    def restore(self, state: dict[str, Tensor]) -> None:
        """Remember `state` again.

        Raises:
            CheckpointError: it is the state of another model.
        """
        moments = {row: found for row in ROWS if (found := _moments_in(state, row))}
        size = self._backbone.layout.size
        fits = "best_score" in state and "private" in state and state["private"].shape == self.private.shape
        whole = [state[name] for name in ("best", "personal") if name in state]
        if (
            not fits
            or any(row.shape != (size,) for row in whole)
            or not all(fitting(own, size) for own in moments.values())
        ):
            raise CheckpointError(
                f"What was kept of client {self.info.name} belongs to another model: the data or the configuration has "
                "changed. Start again without --resume, in a new folder."
            )
        best, personal = state.get("best"), state.get("personal")
        self.private = state["private"].to(self.private)
        self.best_score = float(state["best_score"])
        self.best = None if best is None else best.to(self.private)
        self.personal = None if personal is None else personal.to(self.private)
        self.moments = moments if self._training.moments == "kept" else {}
        self._before = None

    def limit_examples(self, count: int) -> None:
        """Train on `count` of all training examples at most, sampled by the seed, whatever was the limit before."""
        every = self._every_example
        if min(count, len(every)) != len(self._examples):
            kept = count >= len(every)
            self._examples = every if kept else every.select(self._sample(len(every), count, "examples"))
            self.info = ClientInfo(self.info.name, len(self._examples))

    def row(self, shared: Tensor) -> Tensor:
        """Return the whole row [P]: the given shared part [S] and this client's private part."""
        return self._limited(torch.cat([shared.to(self.private), self.private]))

    def _limited(self, row: Tensor) -> Tensor:
        """Return a new row [P] after it was brought to this client's rank."""
        if self._rank is not None:
            limit_rank_(self._backbone.layout, row, self._rank)
        return row

    def train(self, task: TrainTask, report: Callable[[StepProgress], None] | None = None) -> Update:
        """Return the update after local training from `task.row`; the private part is remembered.

        Where the update does not count, which the validation of the round says, what is remembered goes back to before it.
        """
        self._before = task.round, self.private, self.personal, dict(self.moments)
        place = Place(self._seed, self.info.name, task.round, task.progress)
        elsewhere = None if self._trunk is None else self._trunk.link
        row = self.row(task.row)
        result = train_locally(
            self._backbone,
            row,
            self._examples,
            self._training,
            place,
            elsewhere=elsewhere,
            pull=self._pull(self._objective.proximal, row),
            own_items=self._objective.own_items,
            moments=self.moments.get("shared"),
            encode=partial(self._item_vectors, "shared"),
            report=report,
        )
        self._keep_moments("shared", result)
        shared = self._backbone.layout.shared
        self.private = result.row[shared:].clone()
        if self.personal is not None:
            pull = self._pull(self._objective.personal or 0.0, row)
            own = train_locally(
                self._backbone,
                self.personal,
                self._examples,
                self._training,
                place,
                pull=pull,
                moments=self.moments.get("personal"),
                encode=partial(self._item_vectors, "personal"),
            )
            self.personal = own.row
            self._keep_moments("personal", own)
            result = replace(result, tokens=result.tokens + own.tokens, seconds=_together(result.seconds, own.seconds))
        return Update(
            self.info.name,
            task.round,
            result.row[:shared],
            result.loss,
            result.targets,
            result.tokens,
            result.seconds,
        )

    def _keep_moments(self, row: Trained, result: LocalResult) -> None:
        if self._training.moments == "kept" and result.steps:
            self.moments[row] = {name: tensor.cpu() for name, tensor in result.moments.items()}

    def _go_back(self, number: int) -> None:
        """Forget what was trained in round `number`, where this client has trained in it."""
        if self._before is not None and self._before[0] == number:
            _, self.private, self.personal, self.moments = self._before
            self._before = None

    def _pull(self, strength: float, received: Tensor) -> Pull | None:
        return Pull(strength, received[: self._backbone.layout.shared]) if strength else None

    def evaluate(self, task: EvaluateTask) -> Report:
        """Return the loss on held-out events and, where asked for, the ranking metrics.

        A client with a personal row is measured by that one, whatever row the task brings. A validation keeps the row if it is the best so far.

        Raises:
            NumericalError: the loss is not finite.
        """
        started = time.perf_counter()
        if task.part is Part.VALIDATION and not task.trained:
            self._go_back(task.round)
        if task.row is None:
            with self.with_best() as (_, row):
                return self._evaluated(task, row, started)
        return self._evaluated(task, self.row(task.row) if self.personal is None else self.personal, started)

    @contextmanager
    def with_best(self) -> Iterator[tuple[Backbone[Any], Tensor]]:
        """Give the recommender and the best row [P] of this client, which belong together inside the block."""
        with self._trunk.best() if self._trunk else nullcontext():
            yield self._backbone, self.best_row()

    def _evaluated(self, task: EvaluateTask, row: Tensor, started: float) -> Report:
        parameters = self._backbone.layout.views(row)
        queries = self._queries[task.part]
        held_out = self._backbone.query_examples(queries)
        catalogue = self._item_vectors(self._measured, parameters)
        loss, targets = mean_loss(self._backbone, parameters, catalogue, held_out, self._training.batch_tokens * 2)
        if targets and not math.isfinite(loss):
            raise NumericalError(
                f"The {task.part.name.lower()} loss of client {self.info.name} became {loss} after round {task.round}. "
                "Lower training.learning_rate or training.clip_norm, or train in float32."
            )
        per_user = alone = fusion = None
        if task.rank:
            model = self._backbone.scorer(parameters, catalogue)
            if self._fusion is not None and task.part is Part.TEST:
                fusion = self._learned(self._fusion, model)  # also where nobody can be tested: it recommends by it
            if fusion is not None and self._fusion is not None and len(queries):
                alone, per_user = self._compared(queries, model, self._fusion.fused(model, fusion.weights))
            elif len(queries):
                per_user = self._ranked(queries, model, task.part)
        metrics = {} if per_user is None else per_user.overall()
        metrics_alone = None if alone is None else alone.overall()
        improved = task.part is Part.VALIDATION and self._keep(row, metrics, loss)
        seconds = time.perf_counter() - started
        return Report(
            self.info.name,
            task.part,
            loss,
            len(queries),
            metrics,
            improved,
            per_user,
            seconds,
            metrics_alone,
            alone,
            fusion,
        )

    def scorer(self, row: Tensor, weights: Weights | None) -> CatalogueScorer:
        """Return what recommends with a row [P]: the model, or with `weights` the model and the client's statistics."""
        parameters = self._backbone.layout.views(row)
        model = self._backbone.scorer(parameters, self._item_vectors(self._measured, parameters))
        return model if weights is None or self._fusion is None else self._fusion.fused(model, weights)

    @property
    def _measured(self) -> Trained:
        return "shared" if self.personal is None else "personal"

    def _item_vectors(self, which: Trained, parameters: Parameters) -> Tensor | None:
        """Return what `encode_catalogue` returns for these parameters of one of this client's rows."""
        if self._trunk is not None:  # a part of the adapters is with the server
            return self._backbone.encode_catalogue(parameters)
        return self._vectors.encoded(parameters, f"{self.info.name}/{which}")

    def _learned(self, fusion: Fusion, model: CatalogueScorer) -> Learned:
        measuring = self._measuring
        validation = self._sampled(self._data.validation, Part.VALIDATION, measuring.max_users)
        return fusion.learn(model, validation, mask_history=measuring.mask_history, batch=measuring.batch_users)

    def _compared(
        self, queries: Queries, model: CatalogueScorer, fused: FusedScorer
    ) -> tuple[UserMetrics, UserMetrics]:
        """Return test figures of the model alone and of the mix; the model, which may be slow, is asked once."""
        alone, mixed = [], []
        for part in queries.batches(self._measuring.batch_users):
            scores = finite_scores(model, part, self._backbone.items)
            alone.append(self._ranked(part, Given(scores), Part.TEST))
            mixed.append(self._ranked(part, Given(fused.mixed(scores, part.asked())), Part.TEST))
        return together(alone), together(mixed)

    def _ranked(self, queries: Queries, scorer: CatalogueScorer, part: Part) -> UserMetrics:
        m = self._measuring
        ks = sorted({*m.ks, 10}) if part is Part.VALIDATION else m.ks  # rows are chosen by NDCG@10
        return evaluate(scorer, queries, self._backbone.items, ks, mask_history=m.mask_history, batch=m.batch_users)

    def _keep(self, row: Tensor, metrics: dict[str, float], loss: float) -> bool:
        score = metrics.get("ndcg@10", math.nan) if self._measuring.select_by == "ndcg@10" else -loss
        known = not math.isnan(score)  # else there is nothing to choose by, and the newest row is kept
        if known and score <= self.best_score:
            return False
        self.best, self.best_score = row.clone(), score if known else self.best_score
        if self._trunk is not None:
            self._trunk.link.keep()
        return known

    def best_row(self) -> Tensor:
        """Return the whole row [P] with the best validation score."""
        if self.best is None:
            raise ValueError(f"Client {self.info.name} has not validated any row yet.")
        return self.best

    def _sampled(self, queries: Queries, part: Part, limit: int | None) -> Queries:
        if limit is None or limit >= len(queries):
            return queries
        return queries.select(self._sample(len(queries), limit, part.name.lower()))

    def _sample(self, count: int, limit: int, what: str) -> Ints:
        generator = numpy_generator(self._seed, "sample", what, self._data.name)
        return np.sort(generator.choice(count, size=limit, replace=False)).astype(np.int64)


def _moments_in(state: dict[str, Tensor], row: Trained) -> Moments:
    before = f"{MOMENTS}{row}."
    return {name.removeprefix(before): tensor for name, tensor in state.items() if name.startswith(before)}


def _together(one: dict[str, float], other: dict[str, float]) -> dict[str, float]:
    return {phase: seconds + other[phase] for phase, seconds in one.items()}
