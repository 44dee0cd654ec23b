"""Every strategy on the demo's data, by validation alone: what settings are chosen by, before anything is tested.

    python benchmarks/strategies_demo.py --work FOLDER [--only pplr fedavg ...] [--seeds 1] [--rounds 28]

The backbone is `sequence`; strategies for adapters alone (`ffa`, `product`) are therefore left out. Each client's row is
the one that was best on its own validation data, and the figures are NDCG@10 on that data, so they flatter all strategies
alike. Writes benchmarks/results/strategies_demo.json after each run; runs that are already in FOLDER are not repeated.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from pplr.config import Config, parse_config
from pplr.demo import demo_config
from pplr.report.folder import read_metrics
from pplr.report.schema import Metrics
from pplr.runner import run
from result_file import write_result

HERE = Path(__file__).parent
MEASURE = "ndcg@10"
VARIANTS: dict[str, dict[str, Any]] = {
    "pplr": {"kind": "pplr"},
    "pplr items averaged": {"kind": "pplr", "items": "mean"},
    "fedavg": {"kind": "fedavg"},
    "local": {"kind": "local"},
    "pplr no speed": {"kind": "pplr", "speed": False},
    "pplr no similarity": {"kind": "pplr", "similarity": "none"},
    "pplr parameters": {"kind": "pplr", "similarity": "parameters"},
    "pplr self 0.4": {"kind": "pplr", "self_weight": 0.4},
    "pplr self 0.6": {"kind": "pplr", "self_weight": 0.6},
    "pplr temperature 0.02": {"kind": "pplr", "temperature": 0.02},
    "pplr temperature 0.02, self 0.4": {"kind": "pplr", "temperature": 0.02, "self_weight": 0.4},
    "pplr by size": {"kind": "pplr", "by_size": True},
    "fedper 1": {"kind": "fedper", "layers": 1},
    "fedper bias": {"kind": "fedper", "layers": 0, "names": ["bias"]},
    "ditto 0.01": {"kind": "ditto", "pull": 0.01},
    "ditto 0.1": {"kind": "ditto", "pull": 0.1},
    "fedprox 0.01": {"kind": "fedprox", "mu": 0.01},
    "fedprox 0.1": {"kind": "fedprox", "mu": 0.1},
    "fedadam 0.01": {"kind": "fedadam", "eta": 0.01},
    "qfedavg 1": {"kind": "qfedavg", "q": 1.0},
    "qfedavg 5": {"kind": "qfedavg", "q": 5.0},
    "robust median": {"kind": "robust"},
}


def main(arguments: list[str] | None = None) -> None:
    """Run what is missing, and write the figures after each run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for the run folders")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument("--rounds", type=int, default=28)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--output", type=Path, default=HERE / "results" / "strategies_demo.json")
    options = parser.parse_args(arguments)
    runs: list[dict[str, Any]] = []
    for seed in options.seeds:
        for name in options.only:
            config = configuration(name, seed, options.rounds, options.threads)
            runs.append({"name": name, "seed": seed, **measured(config, options.work / f"{config.name}-{seed}")})
            write_result(options.output, "strategies_demo", {"rounds": options.rounds, "runs": runs})


def configuration(name: str, seed: int, rounds: int, threads: int | None) -> Config:
    """Return the demo's configuration with a variant's strategy."""
    values = demo_config("sequence", "fedavg", seed, fusion=False).model_dump(mode="json", exclude_none=True)
    values["name"] = "".join(letter if letter.isalnum() else "-" for letter in name)
    values["strategy"] = VARIANTS[name]
    values["backbone"].pop("contrast")  # the default follows from the strategy
    values["federation"]["rounds"] = rounds
    values["evaluation"]["baselines"] = False
    if threads is not None:
        values["threads"] = threads
    return parse_config(values, Path())


def measured(config: Config, folder: Path) -> dict[str, Any]:
    """Return the figures of one run on validation data, from its folder if it is there."""
    if not (folder / "metrics.json").is_file():
        run(config, folder, overwrite=True)
    metrics = read_metrics(folder)
    values, users = best_by_client(metrics)
    each = np.array(list(values.values()))
    return {
        "strategy": config.strategy.model_dump(mode="json"),
        "overall": float(np.average(each, weights=users)),
        "worst": float(each.min()),
        "deviation": float(each.std()),
        "gap": float(each.max() - each.min()),
        "clients": values,
        "by_round": [record.score for record in metrics.rounds],
        "seconds": metrics.cost.seconds,
    }


def best_by_client(metrics: Metrics) -> tuple[dict[str, float], list[int]]:
    """Return each client's best validation figure, which its row was chosen by, and its number of users."""
    first = metrics.rounds[0].clients
    best = {
        name: max(r.clients[name].validation[MEASURE] for r in metrics.rounds)
        for name, one in first.items()
        if one.users
    }
    return best, [first[name].users for name in best]


if __name__ == "__main__":
    main()
