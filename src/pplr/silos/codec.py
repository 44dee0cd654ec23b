"""Tasks and answers as parcels and back; whatever comes from another organisation is parsed here, once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, Self, TypeVar

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor

from pplr.data.dataset import Part
from pplr.errors import RunError
from pplr.federation.messages import EvaluateTask, Report, TrainTask, Update
from pplr.models.layout import Layout, ParameterSpec, zeros
from pplr.silos.parcel import Floats, Parcel, plain

Finite = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, lt=2**62)]
Name = Annotated[str, Field(min_length=1, max_length=100)]
Identity = Annotated[str, Field(max_length=100)]
Figures = Annotated[dict[str, Finite], Field(max_length=1_000)]


class Fields(BaseModel):
    """The fields of one kind of parcel."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class TrainFields(Fields):
    """See `TrainTask`; `run` is the run's identity, and `examples` is how many training examples may be used at most."""

    run: Identity
    client: Name
    round: Count
    progress: Annotated[float, Field(ge=0, le=1)]
    examples: Count


class UpdateFields(Fields):
    """See `Update`."""

    client: Name
    round: Count
    loss: Finite | None
    targets: Count
    tokens: Count
    seconds: Figures


class EvaluateFields(Fields):
    """See `EvaluateTask`, and `TrainFields`."""

    run: Identity
    client: Name
    round: Count
    part: Literal["validation", "test"]
    rank: bool
    trained: bool
    examples: Count


class ReportFields(Fields):
    """See `Report`; figures of single users are not among them."""

    client: Name
    part: Literal["validation", "test"]
    loss: Finite | None
    users: Count
    metrics: Figures
    metrics_alone: Figures | None
    improved: bool
    seconds: Finite


Kind = TypeVar("Kind", bound=BaseModel)


def parsed(parcel: Parcel, kind: str, fields: type[Kind]) -> Kind:
    """Return the fields of a parcel that should be of a kind.

    Raises:
        RunError: it is of another kind, has other fields, or a silo says that it has failed.
    """
    if parcel.kind == "failure":
        raise RunError(plain(str(parcel.fields.get("reason", "it says no reason"))))
    if parcel.kind != kind:
        raise RunError(f"A message is of the kind {parcel.kind[:60]!r}, not {kind!r}.")
    try:
        return fields.model_validate(dict(parcel.fields))
    except ValidationError as problem:
        first = problem.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise RunError(plain(f"A message of the kind {kind!r} cannot be used: {where}: {first['msg']}.")) from problem


@dataclass(frozen=True)
class Asked:
    """What comes with every task.

    Attributes:
        run: the run's identity: whatever a silo remembers of another one is worth nothing.
        examples: how many training examples may be used at most.
    """

    run: str
    examples: int


def train_parcel(task: TrainTask, asked: Asked) -> Parcel:
    """Return a training task as a parcel."""
    fields = TrainFields(
        run=asked.run, client=task.client, round=task.round, progress=task.progress, examples=asked.examples
    )
    return Parcel("train", fields.model_dump(), numbers(task.row))


def train_task(parcel: Parcel) -> tuple[TrainTask, Asked]:
    """Return a training task and what comes with it."""
    fields = parsed(parcel, "train", TrainFields)
    task = TrainTask(fields.client, fields.round, fields.progress, _row(parcel))
    return task, Asked(fields.run, fields.examples)


def update_parcel(update: Update) -> Parcel:
    """Return an update as a parcel."""
    fields = UpdateFields(
        client=update.client,
        round=update.round,
        loss=_known(update.loss),
        targets=update.targets,
        tokens=update.tokens,
        seconds=update.seconds,
    )
    return Parcel("update", fields.model_dump(), numbers(update.row))


def update_of(parcel: Parcel) -> Update:
    """Return an update."""
    fields = parsed(parcel, "update", UpdateFields)
    loss = math.nan if fields.loss is None else fields.loss
    return Update(fields.client, fields.round, _row(parcel), loss, fields.targets, fields.tokens, fields.seconds)


def evaluate_parcel(task: EvaluateTask, asked: Asked) -> Parcel:
    """Return a measuring task as a parcel."""
    part: Literal["validation", "test"] = "test" if task.part is Part.TEST else "validation"
    fields = EvaluateFields(
        run=asked.run,
        client=task.client,
        round=task.round,
        part=part,
        rank=task.rank,
        trained=task.trained,
        examples=asked.examples,
    )
    return Parcel("evaluate", fields.model_dump(), None if task.row is None else numbers(task.row))


def evaluate_task(parcel: Parcel) -> tuple[EvaluateTask, Asked]:
    """Return a measuring task and what comes with it."""
    fields = parsed(parcel, "evaluate", EvaluateFields)
    row = None if parcel.row is None else _row(parcel)
    task = EvaluateTask(fields.client, fields.round, Part[fields.part.upper()], row, fields.rank, fields.trained)
    return task, Asked(fields.run, fields.examples)


def report_parcel(report: Report) -> Parcel:
    """Return a report as a parcel: means and counts, and nothing of single users."""
    fields = ReportFields(
        client=report.client,
        part="test" if report.part is Part.TEST else "validation",
        loss=_known(report.loss),
        users=report.users,
        metrics=_finite(report.metrics),
        metrics_alone=None if report.metrics_alone is None else _finite(report.metrics_alone),
        improved=report.improved,
        seconds=report.seconds,
    )
    return Parcel("report", fields.model_dump())


def report_of(parcel: Parcel) -> Report:
    """Return a report."""
    fields = parsed(parcel, "report", ReportFields)
    loss = math.nan if fields.loss is None else fields.loss
    part = Part[fields.part.upper()]
    return Report(
        fields.client,
        part,
        loss,
        fields.users,
        fields.metrics,
        fields.improved,
        None,
        fields.seconds,
        fields.metrics_alone,
    )


def _finite(figures: Mapping[str, float]) -> dict[str, float]:
    return {key: value for key, value in figures.items() if math.isfinite(value)}


class Spec(Fields):
    """A parameter without its first value, which the first row holds: see `ParameterSpec`."""

    name: Annotated[str, Field(min_length=1, max_length=500)]
    shape: Annotated[list[Annotated[int, Field(ge=0, lt=2**40)]], Field(max_length=8)]
    private: bool
    decay: bool
    table: bool

    @model_validator(mode="after")
    def _has_items(self) -> Self:
        if self.table and not self.shape:
            raise ValueError("a table has an axis of items")
        return self


class FirstRowFields(Fields):
    """All parameters of a silo, in the order of a row."""

    specs: Annotated[list[Spec], Field(max_length=1_000_000)]


def first_row_parcel(layout: Layout, row: Tensor) -> Parcel:
    """Return where each parameter stands in a row, and the shared row [S] before the first round, as a parcel."""
    specs = [
        Spec(name=spec.name, shape=list(spec.shape), private=spec.private, decay=spec.decay, table=spec.table)
        for spec in layout.specs
    ]
    return Parcel("first row", FirstRowFields(specs=specs).model_dump(), numbers(row))


def first_row(parcel: Parcel) -> tuple[Layout, Tensor]:
    """Return where each parameter stands in a row, without their first values, and the first shared row [S].

    Raises:
        RunError: the row is none of this layout.
    """
    specs = parsed(parcel, "first row", FirstRowFields).specs
    try:
        layout = Layout(
            [ParameterSpec(one.name, tuple(one.shape), zeros, one.private, one.decay, table=one.table) for one in specs]
        )
    except ValueError as problem:
        raise RunError(f"The first row cannot be used: {problem}") from problem
    row = _row(parcel)
    if len(row) != layout.shared:
        raise RunError(f"The first row has {len(row):,} numbers, and {layout.shared:,} parameters are shared.")
    return layout, row


def numbers(row: Tensor) -> Floats:
    """Return a row [S] as float32 numbers of NumPy."""
    found: Floats = row.detach().cpu().to(torch.float32).numpy()
    return found


def tensor(row: Floats) -> Tensor:
    """Return numbers of NumPy as a row [S] float32."""
    return torch.from_numpy(np.array(row, dtype=np.float32))


def _row(parcel: Parcel) -> Tensor:
    if parcel.row is None:
        raise RunError(f"A message of the kind {parcel.kind!r} has no row.")
    return tensor(parcel.row)


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
