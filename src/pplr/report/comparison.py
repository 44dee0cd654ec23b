"""Finished runs side by side, and whether their differences are more than the luck of the users."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from pplr.data.dataset import Ints
from pplr.errors import ConfigError, RunError, nearest
from pplr.evaluation import Balance, Difference, UserMetrics, balance, compare_over_seeds
from pplr.report.folder import held_out_digest, read_metrics, read_per_user
from pplr.report.schema import BalanceMeasures, Metrics


@dataclass(frozen=True)
class Variant:
    """Runs that differ in nothing but their seeds, under one name."""

    label: str
    folders: tuple[Path, ...]


@dataclass(frozen=True)
class ComparedRun:
    """One variant of a comparison: a run, or several whose figures are means over their seeds.

    Attributes:
        label: its name.
        folders: its run folders.
        strategy: kind of its strategy.
        seeds: its seeds, in the order of the folders.
        users: users with a value of the metric.
        overall: mean over users.
        overall_std: sample standard deviation of `overall` over seeds; None for one seed.
        balance: spread over clients; None where the runs were made with different clients. Over several seeds the mean of
            each figure, and no name where the seeds have different worst or best clients.
        worst_std: sample standard deviation of the worst client's value over seeds; None for one seed.
        clients: mean by client's name; empty where seeds have different clients, or there is no balance.
        ranked: clients' values from the lowest to the highest, place by place the mean over seeds; empty where there is no
            balance or seeds differ in their number.
        difference: this variant minus the first, mean over users, on the seeds of both; None for the first.
        worst_difference: this one's worst client minus the first's; None for the first, or without common clients.
    """

    label: str
    folders: tuple[Path, ...]
    strategy: str
    seeds: tuple[int, ...]
    users: int
    overall: float
    overall_std: float | None
    balance: Balance | None
    worst_std: float | None
    clients: Mapping[str, float]
    ranked: tuple[float, ...]
    difference: Difference | None
    worst_difference: Difference | None


@dataclass(frozen=True)
class ComparedBaseline:
    """A baseline or reference that was measured beside the first variant; figures are means over its seeds.

    Attributes:
        name: as in metrics.json.
        overall: mean over users.
        worst: mean over the users of its worst client.
        std: deviation over clients.
        gap: its best client minus its worst.
    """

    name: str
    overall: float
    worst: float
    std: float
    gap: float


@dataclass(frozen=True)
class Comparison:
    """Variants on the same users, compared by one metric.

    Attributes:
        metric: such as "ndcg@10".
        level: coverage of the intervals.
        samples: resamples of the bootstrap.
        seed: seed of the bootstrap.
        runs: the variants, in the order in which they were given; the first is the one to compare with.
        notes: what a reader has to know, in sentences.
        baselines: what was measured beside the first variant, without intervals.
    """

    metric: str
    level: float
    samples: int
    seed: int
    runs: tuple[ComparedRun, ...]
    notes: tuple[str, ...]
    baselines: tuple[ComparedBaseline, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the comparison as values that `json.dumps` takes."""
        return {
            "metric": self.metric,
            "level": self.level,
            "samples": self.samples,
            "seed": self.seed,
            "runs": [_run_as_dict(run) for run in self.runs],
            "notes": list(self.notes),
            "baselines": [asdict(baseline) for baseline in self.baselines],
        }


def compare_runs(
    folders: Sequence[Path], metric: str = "ndcg@10", samples: int = 2000, seed: int = 1, level: float = 0.95
) -> Comparison:
    """Return how the runs in `folders` differ from the first of them: `compare_variants` of one run each."""
    if len(folders) < 2:
        raise ConfigError(f"A comparison needs at least two run folders; {len(folders)} was given.")
    labels = _labels(folders, [read_metrics(folder) for folder in folders])
    variants = [Variant(label, (folder,)) for label, folder in zip(labels, folders, strict=True)]
    return compare_variants(variants, metric, samples, seed, level)


def compare_variants(
    variants: Sequence[Variant], metric: str = "ndcg@10", samples: int = 2000, seed: int = 1, level: float = 0.95
) -> Comparison:
    """Return how variants differ from the first of them, by a paired bootstrap over their users.

    Args:
        variants: one or more; the first is the reference. Runs are paired by seed, two single runs whatever their seeds.
        metric: a metric that all runs have.
        samples: resamples of the bootstrap.
        seed: draws the users; the same for all pairs.
        level: coverage of the intervals, between 0 and 1.

    Raises:
        ConfigError: the settings of the bootstrap make no sense, or a variant has a seed twice.
        RunError: a folder holds no finished run or lacks the metric, or the runs have different data or users.
    """
    if samples < 1 or not 0 < level < 1:
        raise ConfigError(f"The bootstrap needs 1 or more samples and a level between 0 and 1; got {samples}, {level}.")
    if missing := [variant.label for variant in variants if not variant.folders]:
        raise ConfigError(f"There are no runs of {', '.join(map(repr, missing))}. Leave them out, or run them.")
    folders = [folder for variant in variants for folder in variant.folders]
    codes: dict[str, int] = {}
    read = {folder: _Run.read(folder, metric, codes) for folder in folders}
    for folder in folders[1:]:
        _check_same_data(folders[0], read[folders[0]].metrics, folder, read[folder].metrics)
    _check_same_answers(folders)
    measured = [_Measured.of(variant, [read[folder] for folder in variant.folders]) for variant in variants]
    pairs = [_paired(measured[0], other) for other in measured]
    notes: list[str] = []
    same_clients = all(one.owners == other.owners for pair in pairs for one, other in pair)
    if not same_clients:
        notes.append(
            "The runs were made with different clients, so their worst clients are not compared. Use the same settings "
            "of clients, and the same seed."
        )
    runs = []
    for variant, pair in zip(measured, pairs, strict=True):
        found: dict[str, Difference] = {}
        if pair and variant is not measured[0]:
            clients = [one.client_codes(len(codes)) for one, _ in pair] if same_clients else None
            mine, firsts = [other.values for _, other in pair], [one.values for one, _ in pair]
            found = compare_over_seeds(mine, firsts, metric, seed=seed, clients=clients, samples=samples, level=level)
        if len(pair) < len(variant.runs):
            notes.append(_unpaired(variant, measured[0], len(pair)))
        runs.append(variant.compared(metric, found, same_clients=same_clients))
    return Comparison(metric, level, samples, seed, tuple(runs), tuple(notes), _baselines(measured[0], metric))


@dataclass(frozen=True)
class _Run:
    """One finished run: its record, its users' values under common codes, and the client of each user code."""

    folder: Path
    metrics: Metrics
    values: UserMetrics
    owners: Mapping[int, str]

    @staticmethod
    def read(folder: Path, metric: str, codes: dict[str, int]) -> _Run:
        """Read a run; users that have no code yet get one."""
        record, table = read_metrics(folder), _table(folder, metric)
        users = np.array([codes.setdefault(user, len(codes)) for user in table["user"]], dtype=np.int64)
        owners = dict(zip(users.tolist(), table["client"].to_list(), strict=True))
        return _Run(folder, record, UserMetrics(users, {metric: table[metric].to_numpy()}), owners)

    @property
    def names(self) -> list[str]:
        """The clients, in order."""
        return sorted(set(self.owners.values()))

    def client_codes(self, users: int) -> Ints:
        """Return [users] the index of each user's client in `names`, -1 for users that are not in this run."""
        index = {name: place for place, name in enumerate(self.names)}
        found = np.full(users, -1, dtype=np.int64)
        for user, name in self.owners.items():
            found[user] = index[name]
        return found

    def by_client(self, metric: str) -> dict[str, float]:
        """Return the mean over each client's users that have a value; NaN where none has."""
        clients = np.array([self.owners[user] for user in self.values.users.tolist()])
        values = self.values.values[metric]
        means = {}
        for name in self.names:
            known = values[(clients == name) & ~np.isnan(values)]
            means[name] = float(known.mean()) if len(known) else math.nan
        return means


@dataclass(frozen=True)
class _Measured:
    """A variant with its runs."""

    variant: Variant
    runs: tuple[_Run, ...]

    @staticmethod
    def of(variant: Variant, runs: Sequence[_Run]) -> _Measured:
        """Return the variant with its runs, which must have different seeds."""
        seeds = [run.metrics.seed for run in runs]
        if len(set(seeds)) < len(seeds):
            raise ConfigError(f"'{variant.label}' has two runs with the same seed. Give each seed once.")
        return _Measured(variant, tuple(runs))

    def compared(self, metric: str, found: Mapping[str, Difference], *, same_clients: bool) -> ComparedRun:
        """Return the variant's row."""
        overall = [run.values.overall()[metric] for run in self.runs]
        means = [run.by_client(metric) for run in self.runs] if same_clients else []
        spreads = [balance(each) for each in means]
        one_partition = all(run.owners == self.runs[0].owners for run in self.runs)
        names = means[0] if means and one_partition else ()
        return ComparedRun(
            label=self.variant.label,
            folders=self.variant.folders,
            strategy=self.runs[0].metrics.strategy.kind,
            seeds=tuple(run.metrics.seed for run in self.runs),
            users=int(np.mean([np.isfinite(run.values.values[metric]).sum() for run in self.runs])),
            overall=float(np.mean(overall)),
            overall_std=_deviation(overall),
            balance=_averaged(spreads) if spreads else None,
            worst_std=_deviation([spread.worst for spread in spreads]),
            clients={name: float(np.mean([each[name] for each in means])) for name in names},
            ranked=_ranked(means),
            difference=found.get("overall"),
            worst_difference=found.get("worst_client"),
        )


def _paired(first: _Measured, other: _Measured) -> list[tuple[_Run, _Run]]:
    """Return the runs of both variants with the same seed; two single runs are a pair whatever their seeds."""
    if len(first.runs) == len(other.runs) == 1:
        pairs = [(first.runs[0], other.runs[0])]
    else:
        by_seed = {run.metrics.seed: run for run in first.runs}
        pairs = [(by_seed[run.metrics.seed], run) for run in other.runs if run.metrics.seed in by_seed]
    for one, two in pairs:
        _check_same_users(one, two)
    return pairs


def _baselines(first: _Measured, metric: str) -> tuple[ComparedBaseline, ...]:
    """Return what every run of the first variant has measured beside it."""
    records = [run.metrics.baselines for run in first.runs]
    found = []
    for name in records[0]:
        overall = [record[name].overall.figure(metric) for record in records if name in record]
        spreads = [record[name].balance.get(metric) for record in records if name in record]
        known = [value for value in overall if value is not None]
        balances = [each for each in spreads if each is not None and None not in (each.worst, each.std, each.gap)]
        if len(known) == len(balances) == len(records):
            worst, std, gap = (_mean(balances, key) for key in ("worst", "std", "gap"))
            found.append(ComparedBaseline(name, float(np.mean(known)), worst, std, gap))
    return tuple(found)


def _mean(spreads: Sequence[BalanceMeasures], key: str) -> float:
    return float(np.mean([getattr(spread, key) for spread in spreads]))


def _unpaired(variant: _Measured, first: _Measured, pairs: int) -> str:
    label, reference = variant.variant.label, first.variant.label
    return f"{label} and {reference} share {pairs} of the {len(variant.runs)} seeds of {label}: differences are over these."


def _ranked(means: Sequence[Mapping[str, float]]) -> tuple[float, ...]:
    """Return the values of clients, by seed and name, in rising order, averaged over seeds."""
    rising = [np.sort([value for value in each.values() if np.isfinite(value)]) for each in means]
    return tuple(np.mean(rising, axis=0).tolist()) if rising and len({len(each) for each in rising}) == 1 else ()


def _averaged(spreads: Sequence[Balance]) -> Balance:
    """Return the mean of each figure; names that are not the same in all are left out."""
    found: dict[str, Any] = {}
    for field in fields(Balance):
        values = [getattr(spread, field.name) for spread in spreads]
        if field.name == "clients":
            found[field.name] = values[0]
        elif isinstance(values[0], str):
            found[field.name] = values[0] if len(set(values)) == 1 else ""
        else:
            found[field.name] = float(np.mean(values))
    return Balance(**found)


def _deviation(values: Sequence[float]) -> float | None:
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def _table(folder: Path, metric: str) -> pl.DataFrame:
    table = read_per_user(folder)
    metrics = [name for name in table.columns if name not in ("user", "client")]
    if metric not in metrics:
        raise RunError(
            f"The run in {folder} has no metric '{metric}'. Choose from {', '.join(metrics)}.{nearest(metric, metrics)}"
        )
    return table.select("user", "client", metric).sort("user")


def _check_same_users(one: _Run, other: _Run) -> None:
    if one.owners.keys() != other.owners.keys():
        shared = len(one.owners.keys() & other.owners.keys())
        raise RunError(
            f"The runs in {one.folder} and {other.folder} were measured on different users: {len(one.owners):,} and "
            f"{len(other.owners):,}, {shared:,} of them in both. Compare runs with the same data, split, cleaning, and "
            "evaluation.max_users."
        )


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
    found["folders"] = [str(folder) for folder in run.folders]
    found["clients"] = {name: None if math.isnan(value) else value for name, value in run.clients.items()}
    for key, value in (("difference", run.difference), ("worst_difference", run.worst_difference)):
        if value is not None:
            found[key] = asdict(value) | {"estimate": value.estimate, "clear": value.clear}
    if run.balance is not None and not math.isfinite(run.balance.variation):
        found["balance"]["variation"] = None
    return found
