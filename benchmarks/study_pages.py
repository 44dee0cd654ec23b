"""The tables of docs/results.md, docs/ablations.md and README.md, made again from the records of the studies.

    python benchmarks/study_pages.py

Every study in `studies/` with records in `studies/results/NAME` has a place in one of the pages, between comments with its name.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from main_table import MAIN, overview, steps
from page_parts import between_marks, table
from pplr.report.comparison import Variant, compare_variants
from pplr.report.record import read_record
from pplr.study.grid import cells
from pplr.study.records import recorded
from pplr.study.settings import SEED, load_study
from pplr.wording import baseline_name
from study_runs import KEY, STUDIES, ahead, best_loss, best_round, overall_and_worst

HERE = Path(__file__).parent
PAGES = [HERE.parent / "docs" / name for name in ("results.md", "ablations.md")]
SUMMARY = ("pplr", "pplr as published", "fedavg", "local", "centralised")
"""Variants of the main study that README.md shows."""
BESIDE = ("popularity", "transitions", "item_knn", "recent")


def main() -> None:
    """Write the tables of all studies that have records."""
    for study in sorted(STUDIES.glob("*.toml")):
        records = STUDIES / "results" / study.stem
        if records.is_dir() and "clients" in load_study(study).axes:
            write(study.stem, by_clients(study, records))
        elif records.is_dir():
            groups = compared(study, records)
            parts = [headed(group, f"{tests}\n{validation(group, records)}") for group, tests in groups]
            write(study.stem, "\n".join(parts))
            if study.stem == "movietweetings":
                between_marks(HERE.parent / "README.md", "results", summary(groups[0][0]))
    sasrec, counts, references = (
        json.loads((HERE / "results" / f"{name}.json").read_text(encoding="utf-8"))[key]
        for name, key in (("sasrec", "data"), ("against_counts", "runs"), ("references", "data"))
    )
    write("overview", overview(sasrec, counts, references))
    write("steps", steps())
    for mark, (name, section) in SECTIONS.items():
        result = json.loads((HERE / "results" / f"{name}.json").read_text(encoding="utf-8"))
        write(mark, section(result))


def write(mark: str, text: str) -> None:
    """Write a text into the page that has a place for it."""
    found = [page for page in PAGES if f"<!-- {mark}:start -->" in page.read_text(encoding="utf-8")]
    if len(found) != 1:
        raise ValueError(f"One of {', '.join(page.name for page in PAGES)} needs a place '<!-- {mark}:start -->'.")
    between_marks(found[0], mark, text)


def compared(study: Path, records: Path) -> list[tuple[dict[str, Any], str]]:
    """Return what the study says of its records, for each group of runs that can be compared: the figures, and the table of test
    figures in Markdown.
    """
    with tempfile.TemporaryDirectory() as folder:
        words = ["study", str(study), "--records", str(records), "--no-run", "--out", folder, "--quiet"]
        subprocess.run([sys.executable, "-m", "pplr", *words], check=True, capture_output=True)
        groups = json.loads((Path(folder) / "study.json").read_text(encoding="utf-8"))["groups"]
        return [
            (group, (Path(folder) / "tables" / f"{group['table']}.md").read_text(encoding="utf-8")) for group in groups
        ]


def headed(group: dict[str, Any], text: str) -> str:
    """Return a group's text under its title, where there is more than one group."""
    return f"### {group['title']}\n\n{text}" if group["title"] else text


def validation(group: dict[str, Any], folder: Path) -> str:
    """Return the table of validation figures, by which settings are chosen: of the best round of each run; its loss where nothing
    was ranked for validation.
    """
    metrics = {path.name: read_record(path).metrics for path in sorted(folder.glob("*.record.json"))}
    rows = []
    for run in group["runs"]:
        runs = [metrics[Path(cell).name] for cell in run["folders"]]
        found = [best for one in runs if (best := best_round(one)) is not None]
        if not found:
            losses = [loss for one in runs if (loss := best_loss(one)) is not None]
            text = f"loss a token {mean(losses):.3f}" if losses else ""
            rows.append([run["label"], text, "", span([len(one.rounds) for one in runs]) if losses else ""])
            continue
        overall, worst, rounds = zip(*found, strict=True)
        seen = [score for score in worst if score is not None]
        rows.append(
            [
                run["label"],
                f"{mean(overall):.4f}",
                f"{mean(seen):.4f}" if seen else "",
                span(rounds),
            ]
        )
    return table(["variant", "validation NDCG@10", "worst client", "rounds run"], rows)


def span(values: Sequence[int]) -> str:
    """Return the least and the largest of `values`."""
    return str(min(values)) if len(set(values)) == 1 else f"{min(values)} to {max(values)}"


def by_clients(path: Path, folder: Path) -> str:
    """Return a row for each way to part users into clients, which is a comparison of its own: what each strategy reaches,
    by the seeds that all of them have.
    """
    study, known = load_study(path), recorded(folder)
    variants: dict[str, dict[str, dict[str, Path]]] = {}
    for cell in cells(study, path.parent):
        if (record := known.get(cell.digest)) is not None:
            found = variants.setdefault(cell.labels["clients"], {}).setdefault(cell.labels["strategy"], {})
            found[cell.labels[SEED]] = record
    head = ["clients", "seeds", *study.axes["strategy"]]
    ours = [str(name) for name in study.axes["strategy"] if str(name).startswith("pplr")]
    reference, rows = study.reference["strategy"], []
    for clients, strategies in variants.items():
        if reference not in strategies:
            continue
        order = sorted(strategies, key=lambda name: name != reference)
        seeds = set.intersection(*(set(strategies[name]) for name in order))
        chosen = [Variant(name, tuple(strategies[name][seed] for seed in sorted(seeds))) for name in order]
        runs = compare_variants(chosen, KEY).runs
        by_name = {run.label: run for run in runs}
        rows.append(
            [clients, ", ".join(map(str, runs[0].seeds))]
            + [overall_and_worst(by_name[name]) if name in by_name else "" for name in study.axes["strategy"]]
            + [text for name in ours for text in ahead(by_name.get(name))]
        )
    differences = [f"{name} - {reference}, {what} [95%]" for name in ours for what in ("overall", "worst client")]
    return table([*head, *differences], rows)


def new_items(result: dict[str, Any]) -> str:
    """Return Recall@10 / NDCG@10 by bucket, a table for each data set: a column for each run, then the baselines."""
    by_data: dict[str, list[dict[str, Any]]] = {}
    for run in result["runs"].values():
        by_data.setdefault(run["data"], []).append(run)
    return "\n".join(_buckets(data, runs) for data, runs in sorted(by_data.items(), reverse=True))


def _buckets(data: str, runs: list[dict[str, Any]]) -> str:
    columns = {how_trained(run): (run, "run") for run in runs}
    columns |= {baseline_name(name): (runs[0], name) for name in runs[0]["buckets"]["all"] if name != "run"}
    rows = [
        [bucket, f"{runs[0]['buckets'][bucket]['run']['users']:,}"]
        + [_both(run["buckets"][bucket][name]) for run, name in columns.values()]
        for bucket in runs[0]["buckets"]
    ]
    title = next(title for title, name in MAIN.values() if name == data)
    new = f"{100 * runs[0]['share_of_targets_that_are_new']:.0f}% of the test targets are in nobody's training"
    return f"{title}, {new}:\n\n{table(['targets, or users', 'users', *columns], rows)}"


def how_trained(run: dict[str, Any]) -> str:
    """Return a name for a run: its strategy, what its backbone was trained among, with what, and whether clients count too."""
    backbone = run["backbone"]
    text = "" if backbone["residual"] != "none" else ", text alone"
    zero = backbone["contrast"] != "catalogue" and backbone.get("new_bias", "zero") == "zero"
    bias = ", new items' bias 0" if zero else ""
    return f"{run['strategy']['kind']}, `{backbone['contrast']}`{bias}{text}{', own counts' if run['counts'] else ''}"


def _both(figures: dict[str, float]) -> str:
    return f"{figures['recall@10']:.4f} / {figures['ndcg@10']:.4f}" if figures["users"] else ""


def grounding(result: dict[str, Any]) -> str:
    """Return quality and time of each way to ground, and what is written freely, before and after training."""
    ways, notes = [], []
    for run in result["runs"].values():
        for state, found in run["states"].items():
            fastest = min(way["seconds_per_user"] for way in found["grounding"])
            ways += [
                [
                    state,
                    way["grounding"],
                    str(way["beams"]),
                    f"{way['recall@10']:.4f}",
                    f"{way['ndcg@10']:.4f}",
                    str(way["distinct_first"]),
                    f"{way['seconds_per_user']:.2f} ({way['seconds_per_user'] / fastest:.1f})",
                ]
                for way in found["grounding"]
            ]
            writing = found["writing"]
            shares = [writing[key] for key in ("best_is_title", "is_title", "best_in_history", "duplicate")]
            notes.append([state, *(f"{100 * share:.1f}%" for share in shares), str(writing["distinct_best"])])
    head = [
        "model",
        "grounding",
        "beams",
        "Recall@10",
        "NDCG@10",
        "different first items",
        "seconds a user (times the fastest)",
    ]
    written = [
        "model",
        "users whose best beam is a title",
        "beams that are titles",
        "users whose best beam is in their history",
        "further beams nearest to the item of a better one",
        "different best texts",
    ]
    users = {state["writing"]["users"] for run in result["runs"].values() for state in run["states"].values()}
    many = f"{', '.join(map(str, sorted(users)))} users.\n\n"
    return f"{many}{table(head, ways)}\n{table(written, notes)}"


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


def late_fusion(result: dict[str, Any]) -> str:
    """Return what two models of each client reach, alone and mixed, and beside its own counts where that was measured."""
    rows, counted = [], []
    for name, pair in result["pairs"].items():
        used = sum(weights[1] > 0 for weights in pair["weights"].values())
        both = [_reached(pair[each]) for each in ("first", "second", "mixed")]
        rows.append([name, *both, _gain(pair["mixed_minus"]["first"]), f"{used} of {len(pair['weights'])}"])
        if "all" in pair:
            with_counts = [_reached(pair[each]) for each in ("counted", "all")]
            counted.append([name, *with_counts, _gain(pair["all_minus"]["counted"])])
    head = ["pair", "the first", "the second", "both", "gain over the first [95%]", "clients that mix"]
    page = table(head, rows)
    if counted:
        head = ["pair, beside each client's own counts", "the first", "both", "gain over the first [95%]"]
        page = f"{page}\n{table(head, counted)}"
    return page


def _reached(figures: dict[str, Any]) -> str:
    return f"{figures['overall'][KEY]:.4f} / {figures['worst_client']:.4f}"


def _gain(found: dict[str, Any]) -> str:
    gain = found["overall"]
    return f"{gain['first'] - gain['second']:+.4f} [{gain['low']:+.4f}, {gain['high']:+.4f}]"


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


SECTIONS = {
    "new-items": ("buckets", new_items),
    "grounding": ("grounding", grounding),
    "in-place": ("in_place", in_place),
    "late-fusion": ("late_fusion", late_fusion),
}
"""Place in the page -> result file, and what is made of it."""


if __name__ == "__main__":
    main()
