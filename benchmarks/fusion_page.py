"""What counting beside the model is worth, in docs/fusion.md and README.md: the tables between their marks.

python benchmarks/fusion_page.py
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean
from typing import Any

from page_parts import between_marks, table

HERE = Path(__file__).parent
KEY = "ndcg@10"
NAMES = {"movietweetings (demo)": "MovieTweetings", "amazon-beauty": "Amazon Beauty", "amazon-games": "Amazon Games"}
REFERENCES = {"transitions": "transitions", "item_knn_recency": "item-kNN with recency", "recent": "recent popularity"}
BESIDE = ("recent popularity", "SASRec")
"""What stands in the summary."""
SHOWN = "pplr"
"""The runs of which the summary is."""
Result = dict[str, Any]


def main() -> None:
    """Write both tables."""
    fusion, references, sasrec = (_read(name) for name in ("fusion", "references", "sasrec"))
    whole, short = (make(fusion, references, sasrec) for make in (page, summary))
    between_marks(HERE.parent / "docs" / "fusion.md", "fusion", whole)
    between_marks(HERE.parent / "README.md", "fusion", short)


def page(fusion: Result, references: Result, sasrec: Result) -> str:
    """Return a table for each data set: the strategies with and without counts, and what was measured beside them."""
    parts = []
    for name, entry in fusion.items():
        rows = []
        for strategy in dict.fromkeys(run["strategy"] for run in entry["runs"]):
            runs = [run for run in entry["runs"] if run["strategy"] == strategy]
            rows.append(
                [
                    strategy,
                    *(_both(runs, what) for what in ("alone", "mixed")),
                    _gain(runs[0]),
                    str(len(runs)),
                    _rounds(runs),
                ]
            )
        for reference, seeds in _references(name, references, sasrec).items():
            rows.append([f"{reference}, all data in one place", _both(seeds, None), "", "", str(len(seeds)), ""])
        head = ["", "the model alone", "with own counts", "difference, first seed", "seeds", "rounds"]
        parts += [f"### {_title(name)}\n", table(head, rows)]
    return "\n".join(parts)


def summary(fusion: Result, references: Result, sasrec: Result) -> str:
    """Return one line for each data set: `pplr` with and without counts, and what was measured beside it."""
    rows = []
    for name, entry in fusion.items():
        runs = [run for run in entry["runs"] if run["strategy"] == SHOWN]
        if not runs:
            raise SystemExit(f"There is no run of today's `pplr` on {name}. Make one with fusion.py.")
        beside = _references(name, references, sasrec)
        rows.append(
            [
                f"{_title(name)} ({_seeds(len(runs))})",
                *(_both(runs, what) for what in ("alone", "mixed")),
                *(_both(beside[each], None) if each in beside else _missing(each, name, references) for each in BESIDE),
            ]
        )
    head = ["", "pplr, the model alone", "with each client's own counts", "recent popularity, pooled", "SASRec, pooled"]
    return table(head, rows)


def _references(name: str, references: Result, sasrec: Result) -> dict[str, list[Result]]:
    """Return what was measured beside a data set's runs: name -> figures, one entry per seed."""
    found = {}
    if name in references:
        seeds = references[name]["seeds"].values()
        found = {title: [seed[key] for seed in seeds if key in seed] for key, title in REFERENCES.items()}
        found = {title: figures for title, figures in found.items() if figures}
    data, _, split = name.rpartition(", ")
    if data in sasrec and sasrec[data]["split"] == split:
        found["SASRec"] = sasrec[data]["runs"]
    return found


def _missing(reference: str, name: str, references: Result) -> str:
    """Return why a reference has no figures: counts of what is recent need times."""
    return "no times" if reference == REFERENCES["recent"] and name in references else "not measured"


def _both(runs: list[Result], what: str | None) -> str:
    """Return "overall / worst client", means over seeds."""
    figures = [run if what is None else run[what] for run in runs]
    overall = mean(each["overall"][KEY] for each in figures)
    return f"{overall:.4f} / {mean(each['worst_client'] for each in figures):.4f}"


def _gain(run: Result) -> str:
    """Return the difference over users with its bootstrap interval."""
    found = run["mixed_minus_alone"]["overall"]
    return f"{found['first'] - found['second']:+.4f} [{found['low']:+.4f}, {found['high']:+.4f}]"


def _rounds(runs: list[Result]) -> str:
    rounds, best = ([run["stopped"][key] for run in runs] for key in ("round", "best_round"))
    return f"{_span(rounds)} (best: {_span(best)})"


def _span(values: list[int]) -> str:
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low} to {high}"


def _title(name: str) -> str:
    data, _, split = name.rpartition(", ")
    return NAMES.get(data, data) if split == "leave-one-out" else f"{NAMES.get(data, data)}, {split}"


def _seeds(count: int) -> str:
    return "1 seed" if count == 1 else f"{count} seeds"


def _read(name: str) -> Result:
    data: Result = json.loads((HERE / "results" / f"{name}.json").read_text(encoding="utf-8"))["data"]
    return data


if __name__ == "__main__":
    main()
