"""What a silo pays for each k and codec, and what it gets: bytes, time and memory beside NDCG@10.

    python benchmarks/split_costs.py --output benchmarks/results/split_costs.json --work FOLDER

The encoder backbone (MiniLM, six layers) on MovieTweetings: the whole model in one process, and for every k and codec the
same training through a trunk's server. All runs have one seed and the same test users, and each has a process of its own. Its
highest resident memory, from the start of the run on, is that of the clients' side; what the process holds before, without data and model, stands beside it.
Bytes are those of training, validation and test, seconds those of training. Runs that are in `--work` already are not
repeated, but a folder of another configuration is refused. Two to five minutes a run with one thread.
"""

from __future__ import annotations

import argparse
import json
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from codec_quality import CODECS, gigabytes, per_user, relative_interval, through_a_server
from peak_memory import peak_bytes, reset_peak, resident_bytes
from pplr.config import Config, parse_config
from pplr.runner import load_run, run
from result_file import write_result

WHOLE, MEMORY = "whole", "memory.json"
Choice = tuple[int, str]
"""k and codec."""


def main(arguments: list[str] | None = None) -> None:
    """Run what is missing and write the result file."""
    options = _options(arguments)
    whole = _finished(options, None)
    choices: list[Choice] = [(bottom, codec) for bottom in options.ks for codec in options.codecs]
    runs = [figures(_finished(options, choice), choice, whole) for choice in choices]
    common = {"data": "movietweetings (demo)", "model": options.model, "rounds": options.rounds, "seed": options.seed}
    common |= {"examples": options.examples, "users": len(per_user(whole))}
    write_result(options.output, "split_costs", {**common, "whole": figures(whole, None, whole), "choices": runs})


def figures(folder: Path, choice: Choice | None, whole: Path) -> dict[str, Any]:
    """Return what a run has cost and reached; seconds include waiting for the server."""
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    values, reference = per_user(folder), per_user(whole)
    found = {
        "ndcg@10": float(values.mean()),
        "train_seconds": metrics["cost"]["seconds"]["train"],
        **json.loads((folder / MEMORY).read_text(encoding="utf-8")),
    }
    if choice is None:
        return found
    return {
        "bottom": choice[0],
        "codec": choice[1],
        **found,
        "relative_difference": float(values.mean() / reference.mean() - 1),
        "interval_95": relative_interval(values, reference),
        "gigabytes": gigabytes(folder),
    }


def _finished(options: argparse.Namespace, choice: Choice | None) -> Path:
    """Return the folder of a run, which is made in a process of its own where it is not there yet."""
    folder: Path = options.work / (WHOLE if choice is None else f"{choice[0]}-{choice[1]}")
    config = configuration(options, choice)
    if (folder / MEMORY).is_file():
        found = load_run(folder)[0]
        if _compared(found) != _compared(config):
            raise SystemExit(f"The run in {folder} has another configuration. Choose another folder for --work.")
    else:
        process = get_context("spawn").Process(target=run_one, args=(config, folder))
        process.start()
        process.join()
        if process.exitcode:
            raise SystemExit(f"The run in {folder} ended with {process.exitcode}.")
    return folder


def run_one(config: Config, folder: Path) -> None:
    """Run a configuration into a folder, through a trunk's server where its model is split, and write down this process's memory."""
    reset_peak()
    before = resident_bytes()
    if config.placement.kind == "whole":
        run(config, folder, overwrite=True)
    else:
        through_a_server(config, folder)
    memory = {"memory_before_bytes": before, "peak_memory_bytes": peak_bytes()}
    (folder / MEMORY).write_text(json.dumps(memory), encoding="utf-8")


def _compared(config: Config) -> dict[str, Any]:
    """Return what two configurations must agree in: all but where the server and its certificates are."""
    values = config.model_dump(mode="json")
    for key in ("server", "certificates"):
        values["placement"].pop(key, None)
    return values


def configuration(options: argparse.Namespace, choice: Choice | None) -> Config:
    """Return the configuration of a run: nothing but the placement differs."""
    placement: dict[str, Any] = {"kind": "whole"}
    if choice is not None:
        placement = {"kind": "split", "bottom": choice[0], "codec": choice[1], "pieces": 1, "server": "127.0.0.1:1"}
    values = {
        "name": "split-costs",
        "seed": options.seed,
        "threads": options.threads,
        "data": {"demo": "movietweetings"},
        "backbone": {"kind": "encoder", "model": options.model, "history_items": 5, "attributes": ()},
        "federation": {"rounds": options.rounds},
        "training": {"learning_rate": 3e-3, "batch_tokens": 256, "max_examples": options.examples},
        "evaluation": {
            "validation_users": 40,
            "select_by": "loss",
            "baselines": False,
            "examples": 0,
            "max_users": options.users,
        },
        "placement": placement,
    }
    return parse_config(values, Path())


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--work", type=Path, required=True, help="folder for the run folders")
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--ks", type=int, nargs="+", default=[0, 1, 2, 4])
    parser.add_argument("--codecs", nargs="+", choices=CODECS, default=list(CODECS))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--examples", type=int, default=1000)
    parser.add_argument("--users", type=int, default=400, help="test users of a client, at most")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
