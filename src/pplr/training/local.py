"""One client's local training: examples and a row in, a better row out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from pplr.data.dataset import Ints
from pplr.errors import NumericalError
from pplr.memory import give_back_freed
from pplr.models.backbone import Backbone, E, Parameters
from pplr.models.batching import shuffled_batches, sorted_batches
from pplr.models.item_reader import Lesson
from pplr.seeds import derive, numpy_generator
from pplr.training.optimiser import Moments, OtherPlace, Pull, RowOptimiser, clipping
from pplr.training.settings import TrainingSettings


@dataclass(frozen=True)
class StepProgress:
    """How far local training is: shown to the user, written nowhere.

    Attributes:
        step: steps done.
        steps: steps in all.
        loss: mean training loss so far, per target token.
        tokens_per_second: tokens read per second so far, padding not counted.
    """

    step: int
    steps: int
    loss: float
    tokens_per_second: float


@dataclass(frozen=True)
class LocalResult:
    """What local training gives.

    Attributes:
        row: [P] the trained row.
        loss: L_c, mean negative log-likelihood per target token over the round (docs/strategies.md).
        targets: target tokens trained on, over all epochs.
        tokens: tokens read, padding not counted.
        steps: optimiser steps.
        seconds: wall time by phase: `encode` (with what is trained once a round), `forward`, `backward`, `optimiser`,
            and `total`.
        moments: what the optimiser goes on from in the next round, where moments are kept.
    """

    row: Tensor
    loss: float
    targets: int
    tokens: int
    steps: int
    seconds: dict[str, float]
    moments: Moments


@dataclass(frozen=True)
class Place:
    """Where in the run this training stands; all randomness is derived from it.

    Attributes:
        seed: the run's seed.
        client: the client's name.
        round: 1, 2, ...
        progress: (round - 1) / rounds, for the schedule.
    """

    seed: int
    client: str
    round: int
    progress: float


class _Stopwatch:
    """Adds up the wall time of phases."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self.seconds = {"encode": 0.0, "forward": 0.0, "backward": 0.0, "optimiser": 0.0}
        self._start = self._last = self._now()

    def lap(self, phase: str) -> None:
        now = self._now()
        self.seconds[phase] += now - self._last
        self._last = now

    def total(self) -> float:
        return self._now() - self._start

    def _now(self) -> float:
        if self._cuda:
            torch.cuda.synchronize()
        return time.perf_counter()


def train_locally(
    backbone: Backbone[E],
    row: Tensor,
    examples: E,
    settings: TrainingSettings,
    place: Place,
    *,
    elsewhere: OtherPlace | None = None,
    pull: Pull | None = None,
    own_items: bool = False,
    moments: Moments | None = None,
    encode: Callable[[Parameters], Tensor | None] | None = None,
    report: Callable[[StepProgress], None] | None = None,
) -> LocalResult:
    """Return the row [P] after `settings.epochs` epochs over `examples`, or a part of one, starting from `row` [P].

    Draws depend on `place` alone: the same place and row give the same result, whatever ran before. Parameters that
    are `elsewhere` take the same steps there, and the gradient is clipped by the norm over both places. A `pull` is part
    of what is minimised, but not of the loss that is reported. With `own_items` the rows of shared tables move only
    where their items are among the examples'. Where moments are kept the optimiser goes on
    from `moments`. `encode` gives item vectors, at first and whenever they are made anew; absent: the backbone's `encode_catalogue`.

    Raises:
        NumericalError: the loss or the gradient is not finite.
    """
    watch = _Stopwatch(backbone.device)
    encode = encode or backbone.encode_catalogue
    factors = backbone.rate_factors(examples, settings.item_rate, own_items)
    optimiser = RowOptimiser(backbone.layout, row, settings.weight_decay, pull, factors)
    kept = moments if settings.moments == "kept" else None
    if kept:
        optimiser.take_up(kept)
    warmup = 1 if kept and not isinstance(settings.epochs, int) else max(settings.warmup_steps, 1)
    trained = optimiser.row
    schedule = _plan(examples.lengths, settings, place)
    rate = settings.learning_rate * _course(settings, place.progress)
    total, targets, tokens, catalogue = 0.0, 0, 0, None
    if elsewhere is not None:
        elsewhere.start(place.round)
    cuda = [backbone.device] if backbone.device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(derive(place.seed, "dropout", place.client, place.round))
        for step, (epoch_starts, batch) in enumerate(schedule, start=1):
            if step == 1 or (epoch_starts and backbone.refresh(place.progress) == "epoch"):
                catalogue = None  # not held beside the new ones
                catalogue = encode(trained.frozen())
                watch.lap("encode")
            loss = backbone.loss(trained.named, catalogue, examples, batch, training=True)
            total += _finite(float(loss.total.detach()), "loss", place, step)
            watch.lap("forward")
            optimiser.zero()
            (loss.total / max(loss.targets, 1)).backward()  # type: ignore[no-untyped-call]
            watch.lap("backward")
            squared = optimiser.squared_norm() + (elsewhere.squared_norm() if elsewhere else 0.0)
            norm = _finite(math.sqrt(squared), "gradient", place, step)
            now, factor = rate * min(1.0, step / warmup), clipping(norm, settings.clip_norm)
            optimiser.step(now, factor)
            if elsewhere is not None:
                elsewhere.step(step, now, factor)
            watch.lap("optimiser")
            targets, tokens = targets + loss.targets, tokens + loss.tokens
            if report is not None:
                report(StepProgress(step, len(schedule), total / max(targets, 1), tokens / watch.total()))
    lesson = _lesson(settings, rate, place)
    # all examples, also where the round is a part of an epoch: what they are told apart from is that of all of them
    for name, values in backbone.end_round(
        trained.frozen(), catalogue, examples, settings.batch_tokens, lesson
    ).items():
        trained.named[name].detach().copy_(values)
    watch.lap("encode")
    if elsewhere is not None:
        elsewhere.finish()
    give_back_freed()
    mean = total / targets if targets else math.nan
    return LocalResult(
        trained.values.detach(),
        mean,
        targets,
        tokens,
        len(schedule),
        {**watch.seconds, "total": watch.total()},
        optimiser.moments() if settings.moments == "kept" else {},
    )


@torch.no_grad()
def mean_loss(
    backbone: Backbone[E], parameters: Parameters, catalogue: Tensor | None, examples: E, batch_tokens: int
) -> tuple[float, int]:
    """Return the mean negative log-likelihood per target token, and the number of target tokens; NaN and 0 if none.

    `catalogue` is what the backbone's `encode_catalogue` returns for these parameters.
    """
    total, targets = 0.0, 0
    for batch in sorted_batches(examples.lengths, batch_tokens):
        loss = backbone.loss(parameters, catalogue, examples, batch, training=False)
        total, targets = total + float(loss.total), targets + loss.targets
    return (total / targets if targets else math.nan), targets


def _plan(lengths: Ints, settings: TrainingSettings, place: Place) -> list[tuple[bool, Ints]]:
    """Return all batches of the round, each with whether it starts an epoch."""
    if isinstance(settings.epochs, int):
        epochs = [_epoch(lengths, settings, place, place.round, epoch) for epoch in range(settings.epochs)]
        return [batch for batches in epochs for batch in batches]
    return _part(lengths, settings, place)


def _part(lengths: Ints, settings: TrainingSettings, place: Place) -> list[tuple[bool, Ints]]:
    """Return the batches of a round that is a fraction of an epoch: those behind where the round before it ended, whether or
    not the client took part in that one.

    Where the fraction is less than a batch, a round has one, and an epoch as many rounds as it has batches.
    """
    fewest = len(_epoch(lengths, settings, place, 1, 0))
    if not fewest:
        return []
    each = max(Fraction(str(settings.epochs)), Fraction(1, fewest))  # by its digits: 0.1 is no binary fraction
    begin, end = (place.round - 1) * each, place.round * each
    plan: list[tuple[bool, Ints]] = []
    for epoch in range(math.floor(begin), math.ceil(end)):
        batches = _epoch(lengths, settings, place, epoch + 1, 0)
        first, last = (
            round(len(batches) * min(max(point - epoch, Fraction(0)), Fraction(1))) for point in (begin, end)
        )
        plan += batches[first:last]
    return plan or batches[last:][:1] or batches[-1:]  # none where this epoch has fewer batches than the first


def _epoch(
    lengths: Ints, settings: TrainingSettings, place: Place, number: int, within: int
) -> list[tuple[bool, Ints]]:
    """Return the batches of an epoch, each with whether it is the first; `number` and `within` decide how they are drawn."""
    generator = numpy_generator(place.seed, "batches", place.client, number, within)
    batches = shuffled_batches(lengths, settings.batch_tokens, settings.batch_examples, generator)
    return [(index == 0, batch) for index, batch in enumerate(batches)]


def _lesson(settings: TrainingSettings, rate: float, place: Place) -> Lesson:
    return Lesson(
        rate,
        settings.warmup_steps,
        settings.weight_decay,
        settings.clip_norm,
        derive(place.seed, "adapters", place.client, place.round),
    )


def _course(settings: TrainingSettings, progress: float) -> float:
    """Return the factor of the learning rate at `progress` (0 to 1) of the run."""
    return 0.5 * (1 + math.cos(math.pi * progress)) if settings.schedule == "cosine" else 1.0


def _finite(value: float, what: str, place: Place, step: int) -> float:
    if np.isfinite(value):
        return value
    raise NumericalError(
        f"The {what} of client {place.client} became {value} in round {place.round}, step {step}. Lower "
        "training.learning_rate or training.clip_norm, or train in float32."
    )
