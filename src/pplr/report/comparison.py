"""Finished runs side by side, and whether their differences are more than the luck of the users."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from pplr.data.dataset import Ints
from pplr.errors import ConfigError, RunError, nearest
from pplr.evaluation import Balance, Difference, UserMetrics, balance, compare
from pplr.report.folder import held_out_digest, read_metrics, read_per_user
from pplr.report.schema import Metrics


@dataclass(frozen=True)
class ComparedRun:
    """One run of a comparison.

    Attributes:
        label: the run's name, with its folder's where names repeat.
        folder: its folder.
        strategy: kind of its strategy.
        seed: its seed.
        users: users with a value of the metric.
        overall: mean over users.
        balance: spread over the comparison's clients; None where the runs were made with different clients.
        difference: this run minus the first, mean over users; None for the first run.
        worst_difference: this run's worst client minus the first run's; None for the first, or without common clients.
    """

    label: str
    folder: Path
    strategy: str
    seed: int
    users: int
    overall: float
    balance: Balance | None
    difference: Difference | None
    worst_difference: Difference | None


@dataclass(frozen=True)
class Comparison:
    """Runs on the same users, compared by one metric.

    Attributes:
        metric: such as "ndcg@10".
        level: coverage of the intervals.
        samples: resamples of the bootstrap.
        seed: seed of the bootstrap.
        runs: the runs, in the order in which they were given; the first is the one to compare with.
        notes: what a reader has to know, in sentences.
    """

    metric: str
    level: float
    samples: int
    seed: int
    runs: tuple[ComparedRun, ...]
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the comparison as values that `json.dumps` takes."""
        return {
            "metric": self.metric,
            "level": self.level,
            "samples": self.samples,
            "seed": self.seed,
            "runs": [_run_as_dict(run) for run in self.runs],
            "notes": list(self.notes),
        }

    def to_markdown(self) -> str:
        """Return a table with one row per run, and the notes below it."""
        percent = f"{self.level:.0%}"
        head = ["run", "strategy", "seed", self.metric, "worst client", "std", "gap"]
        head += [f"difference to the first [{percent}]", f"worst client's difference [{percent}]"]
        rows = [head, ["---", "---", "---:", "---:", "---:", "---:", "---:", "---:", "---:"]]
        rows += [_markdown_row(run) for run in self.runs]
        lines = ["| " + " | ".join(row) + " |" for row in rows]
        return "\n".join([*lines, "", *self.notes]) + "\n"


def compare_runs(
    folders: Sequence[Path], metric: str = "ndcg@10", samples: int = 2000, seed: int = 1, level: float = 0.95
) -> Comparison:
    """Return how the runs in `folders` differ from the first of them, by a paired bootstrap over their users.

    Args:
        folders: run folders; the first is the reference.
        metric: a metric that all runs have.
        samples: resamples of the bootstrap.
        seed: draws the users; the same for all pairs.
        level: coverage of the intervals, between 0 and 1.

    Raises:
        ConfigError: there are fewer than two folders, or the settings of the bootstrap make no sense.
        RunError: a folder holds no finished run or lacks the metric, or the runs have different data or users.
    """
    if len(folders) < 2:
        raise ConfigError(f"A comparison needs at least two run folders; {len(folders)} was given.")
    if samples < 1 or not 0 < level < 1:
        raise ConfigError(f"The bootstrap needs 1 or more samples and a level between 0 and 1; got {samples}, {level}.")
    metrics = [read_metrics(folder) for folder in folders]
    tables = [_table(folder, metric) for folder in folders]
    for folder, other in zip(folders[1:], metrics[1:], strict=True):
        _check_same_data(folders[0], metrics[0], folder, other)
    _check_same_answers(folders)
    users = tables[0]["user"].to_list()
    measured = [
        _measured(table, users, metric, folders[0], folder) for table, folder in zip(tables, folders, strict=True)
    ]
    partition = _partition([dict(table.select("user", "client").iter_rows()) for table in tables], users)
    runs: list[ComparedRun] = []
    for label, folder, record, values in zip(_labels(folders, metrics), folders, metrics, measured, strict=True):
        found = (
            compare(
                values, measured[0], metric, seed=seed, client_of_user=partition.codes, samples=samples, level=level
            )
            if runs
            else {}
        )
        runs.append(
            ComparedRun(
                label=label,
                folder=folder,
                strategy=record.strategy.kind,
                seed=record.seed,
                users=int(np.isfinite(values.values[metric]).sum()),
                overall=values.overall()[metric],
                balance=partition.balance(values, metric),
                difference=found.get("overall"),
                worst_difference=found.get("worst_client"),
            )
        )
    return Comparison(metric, level, samples, seed, tuple(runs), partition.notes)


@dataclass(frozen=True)
class _Partition:
    """The clients that all runs are measured on: names, and the client index of each user; codes None without."""

    names: tuple[str, ...]
    codes: Ints | None
    notes: tuple[str, ...]

    def balance(self, measured: UserMetrics, metric: str) -> Balance | None:
        if self.codes is None:
            return None
        clients, values = self.codes[measured.users], measured.values[metric]
        means = {}
        for index, name in enumerate(self.names):
            known = values[(clients == index) & ~np.isnan(values)]
            means[name] = float(known.mean()) if len(known) else math.nan
        return balance(means)


def _partition(memberships: Sequence[dict[str, str]], users: Sequence[str]) -> _Partition:
    """Return the clients of the runs, or none and a note where the runs were made with different ones."""
    first = memberships[0]
    if any(found != first for found in memberships[1:]):
        note = (
            "The runs were made with different clients, so their worst clients are not compared. Use the same settings "
            "of clients, and the same seed."
        )
        return _Partition((), None, (note,))
    names = tuple(sorted(set(first.values())))
    index = {name: code for code, name in enumerate(names)}
    return _Partition(names, np.array([index[first[user]] for user in users], dtype=np.int64), ())


def _table(folder: Path, metric: str) -> pl.DataFrame:
    table = read_per_user(folder)
    metrics = [name for name in table.columns if name not in ("user", "client")]
    if metric not in metrics:
        raise RunError(
            f"The run in {folder} has no metric '{metric}'. Choose from {', '.join(metrics)}.{nearest(metric, metrics)}"
        )
    return table.select("user", "client", metric).sort("user")


def _measured(table: pl.DataFrame, users: Sequence[str], metric: str, first: Path, folder: Path) -> UserMetrics:
    if table["user"].to_list() != users:
        shared = len(set(users) & set(table["user"].to_list()))
        raise RunError(
            f"The runs in {first} and {folder} were measured on different users: {len(users):,} and {len(table):,}, "
            f"{shared:,} of them in both. Compare runs with the same data, split, cleaning, and evaluation.max_users."
        )
    return UserMetrics(np.arange(len(users), dtype=np.int64), {metric: table[metric].to_numpy()})


def _check_same_data(first: Path, one: Metrics, folder: Path, other: Metrics) -> None:
    for what in ("items", "events", "split"):
        here, there = getattr(one.data, what), getattr(other.data, what)
        if here != there:
            raise RunError(
                f"The runs in {first} and {folder} have different data ({what}: {here} and {there}), so their figures "
                "cannot be compared. Compare runs with the same data, cleaning and split."
            )


def _check_same_answers(folders: Sequence[Path]) -> None:
    """Refuse runs whose held-out events differ, as far as their marks say what these were."""
    digests = {folder: held_out_digest(folder) for folder in folders}
    known = [(folder, digest) for folder, digest in digests.items() if digest is not None]
    for folder, digest in known[1:]:
        if digest != known[0][1]:
            raise RunError(
                f"The runs in {known[0][0]} and {folder} were measured on different held-out events, so their figures "
                "cannot be compared. Run both on the same files, with the same cleaning and split."
            )


def _labels(folders: Sequence[Path], metrics: Sequence[Metrics]) -> list[str]:
    names = [record.name for record in metrics]
    if len(set(names)) == len(names):
        return names
    paths = [folder.resolve() for folder in folders]
    depth = 1  # as many of the last folders as it takes to tell them apart
    while len({path.parts[-depth:] for path in paths}) < len(set(paths)):
        depth += 1
    return [f"{name} ({Path(*path.parts[-depth:])})" for name, path in zip(names, paths, strict=True)]


def _run_as_dict(run: ComparedRun) -> dict[str, Any]:
    found = asdict(run)
    found["folder"] = str(run.folder)
    for key, value in (("difference", run.difference), ("worst_difference", run.worst_difference)):
        if value is not None:
            found[key] = asdict(value) | {"estimate": value.estimate, "clear": value.clear}
    if run.balance is not None and not math.isfinite(run.balance.variation):
        found["balance"]["variation"] = None
    return found


def _markdown_row(run: ComparedRun) -> list[str]:
    spread = ["", "", ""]
    if run.balance is not None:
        worst = f"{run.balance.worst:.4f} ({_cell(run.balance.worst_client)})"
        spread = [worst, f"{run.balance.std:.4f}", f"{run.balance.gap:.4f}"]
    start = [_cell(run.label), run.strategy, str(run.seed), f"{run.overall:.4f}"]
    return [*start, *spread, _interval(run.difference), _interval(run.worst_difference)]


def _interval(difference: Difference | None) -> str:
    if difference is None:
        return ""
    text = f"{difference.estimate:+.4f} [{difference.low:+.4f}, {difference.high:+.4f}]"
    return f"**{text}**" if difference.clear else text


def _cell(text: str) -> str:
    """Return `text` without what would end a table's cell."""
    return text.replace("|", "\\|").replace("\n", " ")
