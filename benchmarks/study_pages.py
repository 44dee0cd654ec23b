"""The tables of docs/results.md and README.md, made again from the records of the studies.

    python benchmarks/study_pages.py

Every study in `studies/` with records in `studies/results/NAME` has a place in the page, between comments with its name.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import mean
from typing import Any

from page_parts import between_marks, table
from pplr.report.record import read_record
from pplr.report.schema import Metrics
from pplr.wording import baseline_name

HERE = Path(__file__).parent
STUDIES = HERE.parent / "studies"
KEY = "ndcg@10"
SUMMARY = ("pplr", "pplr as published", "fedavg", "local", "centralised")
"""Variants of the main study that README.md shows."""
BESIDE = ("popularity", "transitions", "item_knn", "recent")


def main() -> None:
    """Write the tables of all studies that have records."""
    for study in sorted(STUDIES.glob("*.toml")):
        records = STUDIES / "results" / study.stem
        if records.is_dir():
            group, tests = compared(study, records)
            between_marks(HERE.parent / "docs" / "results.md", study.stem, f"{tests}\n{validation(group, records)}")
            if study.stem == "movietweetings":
                between_marks(HERE.parent / "README.md", "results", summary(group))
    page, results = HERE.parent / "docs" / "results.md", HERE / "results"
    between_marks(page, "new-items", new_items(json.loads((results / "buckets.json").read_text(encoding="utf-8"))))
    between_marks(page, "in-place", in_place(json.loads((results / "in_place.json").read_text(encoding="utf-8"))))


def compared(study: Path, records: Path) -> tuple[dict[str, Any], str]:
    """Return what the study says of its records: the figures, and the table of test figures in Markdown."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["study", str(study), "--records", str(records), "--no-run", "--out", folder, "--quiet"]
        subprocess.run([sys.executable, "-m", "pplr", *words], check=True, capture_output=True)
        group: dict[str, Any] = json.loads((Path(folder) / "study.json").read_text(encoding="utf-8"))["groups"][0]
        return group, (Path(folder) / "tables" / f"{study.stem}.md").read_text(encoding="utf-8")


def validation(group: dict[str, Any], folder: Path) -> str:
    """Return the table of validation figures, by which settings are chosen: of the best round of each run."""
    records = {path.name: read_record(path) for path in sorted(folder.glob("*.record.json"))}
    rows = []
    for run in group["runs"]:
        found = [best_round(records[Path(cell).name].metrics) for cell in run["folders"]]
        overall, worst, rounds = zip(*found, strict=True)
        seen = [score for score in worst if score is not None]
        rows.append(
            [
                run["label"],
                f"{mean(overall):.4f}",
                f"{mean(seen):.4f}" if seen else "",
                f"{min(rounds)} to {max(rounds)}",
            ]
        )
    return table(["variant", "validation NDCG@10", "worst client", "rounds"], rows)


def new_items(result: dict[str, Any]) -> str:
    """Return Recall@10 / NDCG@10 by bucket: a column for each run, then the baselines."""
    runs = list(result["runs"].values())
    columns = {how_trained(run["backbone"]): (run, "run") for run in runs}
    columns |= {baseline_name(name): (runs[0], name) for name in runs[0]["buckets"]["all"] if name != "run"}
    rows = [
        [bucket, f"{runs[0]['buckets'][bucket]['run']['users']:,}"]
        + [_both(run["buckets"][bucket][name]) for run, name in columns.values()]
        for bucket in runs[0]["buckets"]
    ]
    return table(["targets, or users", "users", *columns], rows)


def how_trained(backbone: dict[str, Any]) -> str:
    """Return a name for what a run's backbone was trained among, and with what."""
    text = "" if backbone["residual"] != "none" else ", text alone"
    return f"`{backbone['contrast']}`{text}"


def _both(figures: dict[str, float]) -> str:
    return f"{figures['recall@10']:.4f} / {figures['ndcg@10']:.4f}" if figures["users"] else ""


def in_place(result: dict[str, Any]) -> str:
    """Return what mixing in place gives each client, and how much of its row is its own at the end."""
    runs = result["runs"].values()
    names = list(next(iter(runs))["clients"])
    rows = [
        [run["order"], str(run["seed"]), f"{run['overall']:.4f}"]
        + [f"{run['clients'][name]:.4f} ({100 * run['own_weight'][name]:.0f}%)" for name in names]
        for run in sorted(runs, key=lambda run: (run["seed"], run["order"] != "neither"))
    ]
    return table(["mixed in place", "seed", "NDCG@10", *names], rows)


def summary(group: dict[str, Any]) -> str:
    """Return the small table of README.md."""
    runs = {run["label"]: run for run in group["runs"]}
    rows = [
        [f"**{label}**" if label == "pplr" else label, f"{run['overall']:.4f} ± {run['overall_std']:.4f}", _worst(run)]
        for label in SUMMARY
        if (run := runs.get(label)) is not None
    ]
    rows += [
        [baseline_name(each["name"]), f"{each['overall']:.4f}", f"{each['worst']:.4f}"]
        for each in group["baselines"]
        if each["name"] in BESIDE
    ]
    return table(["", "NDCG@10", "worst client's NDCG@10"], rows)


def _worst(run: dict[str, Any]) -> str:
    return f"{run['balance']['worst']:.4f} ± {run['worst_std']:.4f}"


def best_round(metrics: Metrics) -> tuple[float, float | None, int]:
    """Return the best validation score, the worst client's in that round (None of pooled data), and how many rounds there were."""
    rounds = metrics.rounds
    best = max((one for one in rounds if one.score is not None), key=lambda one: one.score or 0.0)
    scores = [client.validation[KEY] for client in best.clients.values() if KEY in client.validation]
    assert best.score is not None
    return best.score, min(scores) if len(scores) > 1 else None, len(rounds)


if __name__ == "__main__":
    main()
