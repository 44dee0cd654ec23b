"""How much faster local training is with products in bfloat16, and whether it learns the same.

    python benchmarks/precision.py --backbone sequence encoder generative --output benchmarks/results/precision.json
    python benchmarks/precision.py ... --name amazon-games --events interactions.csv.gz --items items.csv.gz --backbone sequence

One client that owns all data trains on a part of its examples, in both precisions by turns, from the same row and with the
same draws. Times are of wall and CPU, ratios of medians. The file keeps one entry per data set and backbone; others stay.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pplr.config import parse_config
from pplr.federation.events import ignore
from pplr.models.arithmetic import Precision
from pplr.planning.speed import bfloat16_times
from pplr.training import Place, train_locally
from pplr.wiring import Parts, prepare
from result_file import circumstances, summary, write_result
from source_data import add_data_options, data_name, data_settings

EXAMPLES = {"sequence": 4000, "encoder": 100, "generative": 40}
"""Examples of an epoch: some seconds each."""
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")


def main(arguments: list[str] | None = None) -> None:
    """Measure each backbone, and write its entry."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data_options(parser)
    parser.add_argument("--name", help="name of the data set in the result; absent: its folder's")
    parser.add_argument("--backbone", nargs="+", choices=EXAMPLES, default=["sequence"])
    parser.add_argument("--model", help="language model; absent: the backbone's default")
    parser.add_argument("--examples", type=int, help="training examples; absent: some seconds' worth")
    parser.add_argument(
        "--repeats", type=int, default=3, help="epochs of each precision, after one that is not measured"
    )
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    for backbone in options.backbone:
        old = json.loads(options.output.read_text(encoding="utf-8"))["runs"] if options.output.is_file() else {}
        entry = {**circumstances(), **measured(options, backbone)}
        name = f"{options.name or data_name(options)}, {backbone}"
        write_result(options.output, "precision", {"runs": {**old, name: entry}})


def measured(options: argparse.Namespace, backbone: str) -> dict[str, Any]:
    """Return times of both precisions, their ratio, and the losses."""
    parts = {precision: prepared(options, backbone, precision) for precision in PRECISIONS}
    walls: dict[str, list[float]] = {precision: [] for precision in PRECISIONS}
    cpus: dict[str, list[float]] = {precision: [] for precision in PRECISIONS}
    losses: dict[str, list[float]] = {}
    results: dict[str, Any] = {}
    for _ in range(options.repeats + 1):
        for precision, each in parts.items():
            examples = sample(each, options.examples or EXAMPLES[backbone])
            wall, cpu = time.perf_counter(), time.process_time()
            results[precision], losses[precision] = epochs(each, examples)
            walls[precision].append(time.perf_counter() - wall)
            cpus[precision].append(time.process_time() - cpu)
    first = results["float32"]
    return {
        "threads": torch.get_num_threads(),
        "items": parts["float32"].backbone.items,
        "targets": first.targets,
        "matmul_ratio": bfloat16_times(),
        "seconds": {precision: summary(times[1:]) for precision, times in walls.items()},
        "cpu_seconds": {precision: summary(times[1:]) for precision, times in cpus.items()},
        "times_as_fast": ratio(walls),
        "times_as_fast_in_cpu_time": ratio(cpus),
        "loss_of_each_epoch": losses,
    }


def sample(parts: Parts, count: int) -> Any:
    """Return some of all training examples, the same in every precision."""
    examples = parts.backbone.examples(parts.dataset.training())
    chosen = np.random.default_rng(1).choice(len(examples), min(count, len(examples)), replace=False)
    return examples.select(np.sort(chosen))


def epochs(parts: Parts, examples: Any) -> tuple[Any, list[float]]:
    """Train two epochs, of which the second sees what the first has changed; return the last result and both losses."""
    row, losses = parts.backbone.layout.initial_row(1), []
    for number in (1, 2):
        result = train_locally(parts.backbone, row, examples, parts.config.training, Place(1, "everyone", number, 0.0))
        row = result.row
        losses.append(result.loss)
    return result, losses


def ratio(times: dict[str, list[float]]) -> float:
    """Return how many times as fast bfloat16 is, by medians."""
    full, rounded = (summary(times[precision][1:])["median"] for precision in PRECISIONS)
    return full / rounded


def prepared(options: argparse.Namespace, backbone: str, precision: str) -> Parts:
    """Return data, model and the one client."""
    model = {} if options.model is None else {"model": options.model}
    sections = {
        "threads": options.threads,
        "data": data_settings(options).model_dump(),
        "clients": {"kind": "random", "count": 1},
        "backbone": {"kind": backbone, "precision": precision} | model,
        "training": {"batch_tokens": 512 if backbone == "sequence" else 1024},
    }
    return prepare(parse_config(sections, Path()), ignore)


if __name__ == "__main__":
    main()
