"""What a client's own counts add to its model: test figures of the mix beside those of the model alone, same training.

    python benchmarks/fusion.py --work FOLDER --output benchmarks/results/fusion.json
    python benchmarks/fusion.py ... --name amazon-beauty --events interactions.csv.gz --items items.csv.gz
    python benchmarks/fusion.py ... --name amazon-games --runs RUN RUN     # trained before, as cells of a study are

Runs of `pplr run` with the backbone `sequence` and 5 clients by k-means. Weights are learned on validation users, and a
client keeps its model alone where the mix does not rank better on validation users that the weights were not learned
from: test users decide nothing. The file keeps one entry per data set and split; others stay.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import pplr
from pplr import run_folder
from pplr.config import Config, parse_config
from pplr.data.dataset import Part
from pplr.evaluation import compare, together
from pplr.federation.events import Event, ignore
from pplr.federation.messages import EvaluateTask, Report
from pplr.federation.strategies import Strategy
from pplr.fusion import FusionSettings
from pplr.runner import load_run
from pplr.wiring import prepare
from result_file import circumstances, settings_of, write_result
from source_data import add_data_options, data_name, data_settings, figures_by_client

HERE = Path(__file__).parent
KEY = "ndcg@10"
ITEMS = {"mean": "items averaged", "submodel": "items averaged over those who have them", "sum": "items added up"}
"""What the strategy `pplr` is called besides, where it does not do with items what it does by default."""
SIMILARITY = {"parameters": "similarity of parameters", "none": "no similarity"}
"""The same, where it does not compare what it compares by default."""
CONTRAST = {"catalogue": "whole catalogue", "own": "own items"}
"""What is said of the items that `sequence` was trained among; learning alone it is the whole catalogue by default."""


def main() -> None:
    """Run every strategy with every seed, and write the entry of this data set after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data_options(parser)
    parser.add_argument("--work", type=Path, help="folder for the runs; one that was interrupted goes on")
    parser.add_argument("--name", help="name of the data set in the result; absent: its folder's")
    parser.add_argument("--strategies", nargs="+", default=["pplr", "fedavg", "local"])
    parser.add_argument("--statistics", nargs="+", default=["transitions", "recent", "item_knn_recency"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument(
        "--runs",
        type=Path,
        nargs="+",
        default=[],
        metavar="RUN",
        help="finished runs, instead of new ones; what the result has of others stays",
    )
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    name = f"{options.name or data_name(options)}, {options.split}"
    entry: dict[str, Any] = {**circumstances(), "statistics": options.statistics, "runs": []}
    for folder in options.runs or trained(options, name):
        found = measured(folder, options.statistics)
        old = json.loads(options.output.read_text(encoding="utf-8"))["data"] if options.output.is_file() else {}
        known = {} if not options.runs else {cell(run): run for run in old.get(name, {}).get("runs", [])}
        found |= {"measured": {name: entry[name] for name in ("date", "commit", "threads")}}
        runs = {cell(run): run for run in [*entry["runs"], found]}
        entry["runs"] = list({**known, **runs}.values())
        write_result(options.output, "fusion", {"data": {**old, name: entry}})


def cell(run: dict[str, Any]) -> tuple[str, int]:
    """Return what a run is known by: one that is measured again takes the place of the old one."""
    return run["strategy"], run["seed"]


def trained(options: argparse.Namespace, name: str) -> Iterator[Path]:
    """Yield the folder of a run for each strategy and seed, which is trained where it is not there yet."""
    if options.work is None:
        raise SystemExit("Say with --work where the runs shall be, or with --runs where they are.")
    for seed in options.seeds:
        for strategy in options.strategies:
            folder = options.work / "-".join([*name.split(), strategy, str(seed)]).replace(",", "")
            if not (folder / "metrics.json").is_file():
                asked = config(options, strategy, seed)
                pplr.run(asked, folder, resume=(folder / "checkpoints").is_dir(), observer=tell)
            yield folder


def config(options: argparse.Namespace, strategy: str, seed: int) -> Config:
    """Return the configuration of one run."""
    values = {
        "seed": seed,
        "threads": options.threads,
        "data": data_settings(options).model_dump(exclude_none=True),
        "federation": {"rounds": options.rounds, "patience": 4},
        "strategy": {"kind": strategy},
        "fusion": {"statistics": options.statistics},
        "evaluation": {"baselines": False},
    }
    return parse_config(values, Path())


def measured(folder: Path, statistics: list[str]) -> dict[str, Any]:
    """Return the test figures of a run's mixes with these statistics and of its models, from its rows."""
    config, rows = load_run(folder)
    config = config.model_copy(update={"fusion": FusionSettings(statistics=tuple(statistics))})
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    torch.set_num_threads(config.threads or 1)
    parts = prepare(config, ignore)
    run_folder.check_origin(folder, parts.origin())
    reports: dict[str, Report] = {}
    with parts.reached():
        for client in parts.clients(parts.owners):
            client.best = rows[client.info.name].to(parts.backbone.device)
            reports[client.info.name] = client.evaluate(EvaluateTask(client.info.name, 0, Part.TEST, None, rank=True))
    mixed, alone = (
        together([users for report in reports.values() if (users := getattr(report, what)) is not None])
        for what in ("per_user", "alone")
    )
    owners = parts.assignment.client_of_user
    differences = compare(mixed, alone, KEY, seed=1, client_of_user=owners)
    return {
        "strategy": label(config.strategy, config.training.moments, getattr(config.backbone, "contrast", None)),
        "seed": config.seed,
        "configuration": settings_of(config),
        "stopped": metrics["stopped"],
        "train_seconds": metrics["cost"]["seconds"]["train"],
        "mixed": figures_by_client(mixed, owners, parts.assignment.names),
        "alone": figures_by_client(alone, owners, parts.assignment.names),
        "mixed_minus_alone": {name: asdict(each) for name, each in differences.items()},
        "clients": {name: asdict(report.fusion) for name, report in reports.items() if report.fusion is not None},
    }


def label(strategy: Strategy, moments: str, contrast: str | None) -> str:
    """Return what a strategy is called in the tables: what is not the default is said."""
    said = [str(strategy.model_dump()["kind"])]
    for name, field in type(strategy).model_fields.items():
        value = getattr(strategy, name)
        if name not in {"kind", "items", "similarity"} and value != field.default:
            said.append(f"{name} {value}")
    said += [SIMILARITY[each] for each in [getattr(strategy, "similarity", "updates")] if each in SIMILARITY]
    said += [ITEMS[each] for each in [getattr(strategy, "items", "rescaled")] if each in ITEMS]
    said += ["moments fresh"] if moments == "fresh" else []
    said += [CONTRAST[contrast]] if contrast in CONTRAST and (contrast, said[0]) != ("catalogue", "local") else []
    return ", ".join(said)


def tell(event: Event) -> None:
    """Print the rounds."""
    if event.name == "round_finished":
        print(event.round, event.data.get("score"), flush=True)


if __name__ == "__main__":
    main()
