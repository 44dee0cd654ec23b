"""The tables at the top of docs/results.md: what was reached on each data set, and where the gain comes from."""

from __future__ import annotations

from pathlib import Path
from statistics import mean
from typing import Any

from page_parts import table
from pplr.evaluation.bootstrap import Difference
from pplr.report.comparison import Variant, compare_variants
from pplr.report.comparison_text import with_interval
from pplr.report.record import read_record
from pplr.wording import baseline_name
from study_runs import KEY, STUDIES, ahead, overall_and_worst, variants

MAIN = {
    "movietweetings": ("MovieTweetings", "movietweetings (demo)"),
    "beauty": ("Amazon Beauty", "amazon-beauty"),
    "games": ("Amazon Games", "amazon-games"),
    "microlens": ("MicroLens", "microlens-50k"),
}
"""The studies of the main table: title, by which against_counts.json has it too, and name in sasrec.json."""
ROWS = {
    "`local`: learning alone": "local",
    "`fedavg`": "fedavg",
    "the paper's D": "pplr as published",
    "**`pplr`**": "pplr",
    "`centralised`: pooled training": "centralised",
}
APART = {"`fedavg`": "fedavg", "the paper's D": "pplr as published", "`local`": "local", "`centralised`": "centralised"}
COUNTS = {"transitions, pooled": "transitions", "item-kNN, pooled": "item_knn"}
"""Counting on all clients' data: title, and name of the baseline."""
STEPS = {
    "items averaged, fresh": "pplr, items averaged, moments fresh",
    "items added up, fresh": "pplr, items added up, moments fresh",
    "and moments kept": "pplr, items added up",
    "and rescaled": "pplr, items rescaled",
    "and among known items: `pplr`": "pplr",
    "`centralised`, fresh": "centralised, moments fresh",
    "`centralised`": "centralised",
}
FRESH, NOT_RUN = ", moments fresh", "not run"
OURS = "pplr"
SENT = "megabytes that a client of `pplr` sends a round, and receives twice"


def overview(sasrec: dict[str, Any], counts: dict[str, Any], references: dict[str, Any]) -> str:
    """Return the tables at the top of the page: what was reached on each data set, and how far `pplr` is from the others.

    Args:
        sasrec: what sasrec.json has of each data set.
        counts: what against_counts.json has of each data set.
        references: what references.json has of each data set and split.
    """
    columns = [_reached(study, sasrec, references) for study in MAIN]
    distances = [
        _distances(variants(STUDIES / f"{study}.toml")) | from_counts(counts.get(title, {}))
        for study, (title, _) in MAIN.items()
    ]
    titles = [title for title, _ in MAIN.values()]
    first = table(
        ["NDCG@10, all users / worst client", *titles],
        [[title, *(column[title] for column in columns)] for title in columns[0]],
    )
    second = table(
        ["`pplr` minus ...", *titles], [[title, *(column[title] for column in distances)] for title in distances[0]]
    )
    return f"{first}\n{second}"


def _reached(study: str, sasrec: dict[str, Any], references: dict[str, Any]) -> dict[str, str]:
    """Return a column of the first table: what each of `ROWS` has reached in a study, then references; title -> text."""
    _, data_name = MAIN[study]
    found = variants(STUDIES / f"{study}.toml")
    labels = {title: _chosen(found, label) for title, label in ROWS.items()}
    data = read_record(next(iter(found[next(filter(None, labels.values()))].values()))).metrics.data
    chosen = [Variant(label, tuple(found[label].values())) for label in labels.values() if label is not None]
    comparison = compare_variants(chosen, KEY, samples=1)
    runs = {run.label: run for run in comparison.runs}
    most = max(len(run.seeds) for run in runs.values())
    column = {"users × items": f"{data.users:,} × {data.items:,}", "seeds": str(most)}
    for title, label in labels.items():
        if label is None:
            column[title] = NOT_RUN
            continue
        mark = "ᶠ" if label.endswith(FRESH) else ""
        column[title] = f"{overall_and_worst(runs[label])}{mark}{_seeds(len(found[label]), most)}"
    seeds = references.get(f"{data_name}, leave-one-out", {}).get("seeds", {})
    column["matrix factorisation, federated"] = _mean([found["federated_mf"] for found in seeds.values()], most)
    column["SASRec, pooled"] = _mean(sasrec.get(data_name, {}).get("runs", []), most)
    best = max(comparison.baselines, key=lambda each: each.overall)
    column["the best count, pooled"] = f"{best.overall:.4f} / {best.worst:.4f}, {baseline_name(best.name)}"
    column[SENT] = _sent(found[OURS]) if OURS in found else NOT_RUN
    return column


def _sent(runs: dict[str, Path]) -> str:
    """Return how many megabytes a client sends in a round, with the first seed."""
    metrics = read_record(next(iter(runs.values()))).metrics
    return f"{metrics.cost.bytes_up / len(metrics.rounds) / len(metrics.clients) / 1e6:.1f}"


def _mean(runs: list[dict[str, Any]], most: int) -> str:
    """Return what a reference has reached, on average over its runs."""
    if not runs:
        return NOT_RUN
    overall, worst = mean(run["overall"][KEY] for run in runs), mean(run["worst_client"] for run in runs)
    return f"{overall:.4f} / {worst:.4f}{_seeds(len(runs), most)}"


def _seeds(count: int, most: int) -> str:
    return "" if count == most else f" ({count} seed{'s' if count > 1 else ''})"


def _distances(found: dict[str, dict[str, Path]]) -> dict[str, str]:
    """Return a column of the second table: how far `pplr` is ahead, on the seeds of both; title -> difference with its interval."""
    column: dict[str, str] = {}
    for title, label in APART.items():
        seeds = sorted(found.get(OURS, {}).keys() & found.get(label, {}).keys())
        texts = ["fresh only" if f"{label}{FRESH}" in found else NOT_RUN] * 2
        if seeds:
            pair = [Variant(each, tuple(found[each][seed] for seed in seeds)) for each in (label, OURS)]
            texts = ahead(compare_variants(pair, KEY).runs[1])
        column |= {f"{title}, {what}": text for what, text in zip(("all users", "worst client"), texts, strict=True)}
    return column


def from_counts(run: dict[str, Any]) -> dict[str, str]:
    """Return how far a run is ahead of counting: title -> difference with its interval, from its entry in against_counts.json."""
    if run.get("labels", {}).get("strategy", [OURS]) != [OURS]:
        raise SystemExit(
            f"against_counts.json has {run['labels']}, not `{OURS}`. Run against_counts.py with --only strategy={OURS}."
        )
    column = {}
    for title, name in COUNTS.items():
        found = run.get("minus", {}).get(name, {})
        for what, key in (("all users", "overall"), ("worst client", "worst_client")):
            text = with_interval(Difference(**found[key]), "**{}**") if key in found else NOT_RUN
            column[f"{title}, {what}"] = text
    return column


def _chosen(found: dict[str, dict[str, Path]], label: str) -> str | None:
    """Return the label of a variant, or else of the same with moments fresh; None where there is none."""
    return next((each for each in (label, f"{label}{FRESH}") if each in found), None)


def steps() -> str:
    """Return what each step from the paper's way to today's default has brought, with the first seed."""
    rows = []
    for study, (title, _) in MAIN.items():
        found = variants(STUDIES / f"{study}.toml")
        figures = [
            f"{read_record(found[label]['1']).metrics.overall.figure(KEY):.4f}"
            if "1" in found.get(label, {})
            else NOT_RUN
            for label in STEPS.values()
        ]
        rows.append([title, *figures])
    return table(["NDCG@10, seed 1", *STEPS], rows)
