"""Quality on the demo's data: the strategies side by side, per client, beside the simple baselines.

    python benchmarks/demo_quality.py --work FOLDER [--strategies pplr fedavg local centralised] [--seeds 1]

Writes benchmarks/results/demo_quality.json and docs/results.md. Runs that are already in FOLDER are not repeated.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from pplr.demo import demo_config
from pplr.federation.events import Event
from pplr.runner import run

HERE = Path(__file__).parent
SHOWN = ("ndcg@10", "recall@10")


def main() -> None:
    """Run what is missing and write both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for the run folders")
    parser.add_argument("--strategies", nargs="+", default=["pplr", "local", "fedavg", "centralised"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument("--output", type=Path, default=HERE / "results" / "demo_quality.json")
    parser.add_argument("--page", type=Path, default=HERE.parent / "docs" / "results.md")
    options = parser.parse_args()
    runs = [measured(options.work, strategy, seed) for seed in options.seeds for strategy in options.strategies]
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps({"benchmark": "demo_quality", "runs": runs}, indent=1), encoding="utf-8")
    options.page.write_text(page(runs), encoding="utf-8")


def measured(work: Path, strategy: Any, seed: int) -> dict[str, Any]:
    """Return the figures of one run, from its folder if it is there."""
    config = demo_config("sequence", strategy, seed, fusion=False)
    folder = work / f"{config.name}-{seed}"
    if (folder / "metrics.json").is_file():
        metrics: dict[str, Any] = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    else:
        metrics = run(config, folder, overwrite=True, observer=show).metrics
    keep = ("seed", "strategy", "backbone", "overall", "clients", "balance", "baselines", "stopped", "cost", "versions")
    return {key: metrics[key] for key in (*keep, "threads")} | {
        "validation": [record["score"] for record in metrics["rounds"]]
    }


def page(runs: list[dict[str, Any]]) -> str:
    """Return docs/results.md."""
    seeds = sorted({run["seed"] for run in runs})
    first = runs[0]
    clients = list(first["clients"])
    lines = [
        "# Results",
        "",
        "MovieTweetings core5 (4,333 users, 2,414 films), leave-one-out, whole catalogue ranked; backbone `sequence` on",
        "MiniLM vectors, 5 clients by k-means, settings chosen on validation data. Seeds: "
        + f"{', '.join(map(str, seeds))}. {first['threads']} threads, no GPU.",
        "Repeat it with `python benchmarks/demo_quality.py --work FOLDER`.",
        "",
        "## Test NDCG@10",
        "",
        "| | seed | overall | worst client | " + " | ".join(clients) + " |",
        "|---|---|---|---|" + "---|" * len(clients),
    ]
    lines += [row(entry["strategy"]["kind"], str(entry["seed"]), entry, clients) for entry in runs]
    lines += [row(name, "", figures, clients) for name, figures in first["baselines"].items()]
    lines += [
        "",
        "The baselines count the training events of all clients together, which no client could do alone. `recent` is",
        "popularity in a window of days before the target's time: films are watched when new, and the model does",
        "not read the clock.",
        "",
        "## Cost",
        "",
        "| strategy | seed | training (s) | validation (s) | rounds | MB up | MB down | peak memory (MB) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [cost_row(entry) for entry in runs]
    lines += ["", "These machines are shared: seconds are what was seen once, not a benchmark.", ""]
    return "\n".join(lines)


def cost_row(entry: dict[str, Any]) -> str:
    """Return one line of the cost table."""
    cost = entry["cost"]
    seconds = cost["seconds"]
    cells = [
        entry["strategy"]["kind"],
        str(entry["seed"]),
        f"{seconds['train']:.0f}",
        f"{seconds['validate']:.0f}",
        str(entry["stopped"]["round"]),
        f"{cost['bytes_up'] / 1e6:.1f}",
        f"{cost['bytes_down'] / 1e6:.1f}",
        f"{cost['peak_memory_bytes'] / 1e6:.0f}",
    ]
    return "| " + " | ".join(cells) + " |"


def row(name: str, seed: str, figures: dict[str, Any], clients: list[str]) -> str:
    """Return one line of the quality table."""
    key = SHOWN[0]
    values = [figures["clients"][client][key] for client in clients]
    cells = [figures["overall"][key], figures["balance"][key]["worst"], *values]
    return f"| {name} | {seed} | " + " | ".join(f"{value:.4f}" for value in cells) + " |"


def show(event: Event) -> None:
    """Print a line per round."""
    if event.name in ("round_finished", "run_finished", "tested"):
        print(event.name, event.round, event.client, event.data, flush=True)


if __name__ == "__main__":
    main()
