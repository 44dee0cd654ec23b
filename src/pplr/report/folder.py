"""A finished run as it lies on the disk, a folder or a record, read once into typed values."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from pplr.config import Config, load_config, parse_config
from pplr.config_history import as_meant
from pplr.errors import RunError
from pplr.report.record import is_record, read_record
from pplr.report.schema import METRIC_KEY, SCHEMA_VERSION, Metrics
from pplr.run_folder import go_on, of_silos

METRICS_FILE = "metrics.json"
EXAMPLES_FILE = "examples.json"
CONFIGURATION_FILE = "config.toml"
PER_USER_FILE = "per_user.parquet"
MARK_FILE = "run.json"
TRACES = (CONFIGURATION_FILE, "events.jsonl", "checkpoints")
"""What a run leaves behind before it is finished."""


class RecommendedItem(BaseModel):
    """One place of a recommended list."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    rank: int = Field(ge=1, description="1 is the best.")
    id: str = Field(description="Item id as written in the data.")
    title: str = Field(description="Title of the item.")
    score: float = Field(description="The higher the better; comparable within one list only.")


class Example(BaseModel):
    """What one test user was recommended, beside what the user truly chose."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    client: str = Field(description="The user's client.")
    user: str = Field(description="User id as written in the data.")
    history: list[str] = Field(description="Titles of the history, oldest first.")
    chosen: list[str] = Field(description="Titles that the user truly chose next.")
    recommended: list[RecommendedItem] = Field(description="The recommendations, best first.")
    written: list[str] = Field(default=[], description="Titles as a generative backbone wrote them, before grounding.")


@dataclass(frozen=True)
class FinishedRun:
    """The readable files of a run folder.

    Attributes:
        folder: where it lies.
        metrics: the content of metrics.json.
        examples: the content of examples.json; empty where there is none.
        configuration: the text of config.toml, or None where there is none.
    """

    folder: Path
    metrics: Metrics
    examples: tuple[Example, ...]
    configuration: str | None


def read_run(folder: Path) -> FinishedRun:
    """Return what a finished run left in `folder`.

    Raises:
        RunError: there is no such folder, it holds no finished run, or one of its files is damaged or of another
            version.
    """
    metrics = read_metrics(folder)
    configuration = folder / CONFIGURATION_FILE
    text = _read_text(configuration) if configuration.is_file() else None
    return FinishedRun(folder, metrics, _read_examples(folder / EXAMPLES_FILE), text)


def read_metrics(folder: Path) -> Metrics:
    """Return the validated content of `folder`/metrics.json, or of a record.

    Raises:
        RunError: as `read_run`.
    """
    if is_record(folder):
        return read_record(folder).metrics
    path = folder / METRICS_FILE
    _check_finished(folder)
    text = _read_text(path)
    try:
        content = json.loads(text)
    except json.JSONDecodeError as problem:
        raise RunError(
            f"{path} is damaged: it is not valid JSON in line {problem.lineno} ({problem.msg}). {go_on(folder)}"
        ) from problem
    version = content.get("schema") if isinstance(content, dict) else None
    if version != SCHEMA_VERSION:
        raise RunError(
            f"{path} has the schema version {version!r}; this version of pplr reads {SCHEMA_VERSION}. Read it with the "
            f"version of pplr that wrote it. Or: {go_on(folder)}"
        )
    try:
        return Metrics.model_validate(content)
    except ValidationError as problem:
        raise RunError(
            f"{path} does not follow schema {SCHEMA_VERSION}: {_first_mistake(problem)} {go_on(folder)}"
        ) from problem


def read_per_user(folder: Path) -> pl.DataFrame:
    """Return the test figures of single users: columns "user" and "client" (text), one float column per metric.

    Raises:
        RunError: the file is missing or damaged, lacks a column, or lists a user twice.
    """
    if is_record(folder):
        return read_record(folder).per_user.table()
    path = folder / PER_USER_FILE
    if not path.is_file():
        _check_finished(folder)
        if of_silos(folder):
            raise RunError(
                f"The run in {folder} was one over silos, where the figures of single users have stayed. Compare the "
                f"means in its {METRICS_FILE}."
            )
        raise RunError(f"{folder} has no {PER_USER_FILE}. {go_on(folder)}")
    try:
        table = pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as problem:
        raise RunError(f"{path} is damaged: {problem}. {go_on(folder)}") from problem
    metrics = [name for name in table.columns if METRIC_KEY.fullmatch(name)]
    missing = [name for name in ("user", "client") if name not in table.columns]
    if table.is_empty() and not missing:
        raise RunError(f"{path} lists no test user, so there are no figures of users to compare.")
    if missing or not metrics:
        raise RunError(
            f"{path} lacks {missing[0] if missing else 'metrics'}; it has the columns {', '.join(table.columns)}. "
            f"{go_on(folder)}"
        )
    if table["user"].is_duplicated().any():
        twice = table["user"].filter(table["user"].is_duplicated())[0]
        raise RunError(f"{path} lists the user '{twice}' twice. {go_on(folder)}")
    return table.select(
        pl.col("user", "client").cast(pl.String),
        *(pl.col(name).cast(pl.Float64).fill_null(float("nan")) for name in metrics),
    )


def held_out_digest(folder: Path) -> str | None:
    """Return the digest of the held-out events that a run was made from, or None where its mark says nothing of them."""
    if is_record(folder):
        return read_record(folder).held_out
    try:
        digest = json.loads((folder / MARK_FILE).read_text(encoding="utf-8"))["made_from"]["held-out events"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return digest if isinstance(digest, str) else None


def read_configuration(folder: Path) -> Config:
    """Return the configuration of a run; relative paths in a record's start at its own folder.

    Raises:
        ConfigError: there is none, or something is wrong in it.
        RunError: a record is damaged.
    """
    if not is_record(folder):
        return load_config(folder / CONFIGURATION_FILE)
    record = read_record(folder)
    return parse_config({**as_meant(record.configuration), "name": record.metrics.name}, folder.parent)


def _check_finished(folder: Path) -> None:
    if not folder.is_dir():
        raise RunError(f"There is no run folder {folder}. Give the folder that `pplr run` printed at its end.")
    if (folder / METRICS_FILE).is_file():
        return
    if any((folder / name).exists() for name in TRACES):
        raise RunError(f"The run in {folder} is not finished: it has no {METRICS_FILE} yet. {go_on(folder)}")
    raise RunError(
        f"{folder} is not a run folder: it has no {METRICS_FILE}. Give a folder that `pplr run` has written."
    )


def _read_examples(path: Path) -> tuple[Example, ...]:
    if not path.is_file():
        return ()
    try:
        return tuple(TypeAdapter(list[Example]).validate_json(_read_text(path)))
    except ValidationError as problem:
        raise RunError(
            f"{path} is damaged: {_first_mistake(problem)} Delete it to have a report without examples. "
            f"Or: {go_on(path.parent)}"
        ) from problem


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise RunError(f"{path} cannot be read: {problem}. Repair it, or choose another run folder.") from problem


def _first_mistake(problem: ValidationError) -> str:
    first = problem.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or "the whole"
    more = problem.error_count() - 1
    others = f" ({more} more mistakes follow.)" if more else ""
    return f"{where}: {first['msg'].removeprefix('Value error, ')}.{others}"
