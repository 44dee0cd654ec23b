"""Seconds per epoch of the sequence backbone, and the share of the machine's matrix-product rate that it reaches.

    python benchmarks/sequence_speed.py --output benchmarks/results/sequence_speed.json

One client that owns all data trains whole epochs with the default settings. Operations are counted by the usual rule:

    4 I H w                per step: projection of I item vectors, H wide (no gradient to them), to width w
    6 I w                  per target: scores of all items
    72 l w^2 + 6 l w T     per position: transformer of l layers over T positions, causal

Embedding look-ups, norms, activations, softmax and the optimiser are left out.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch

from pplr.config import Config, parse_config
from pplr.federation.events import ignore
from pplr.models.sequence import SequenceBackbone
from pplr.models.sequence_examples import ItemSequences
from pplr.planning.speed import best, matmul_rate
from pplr.training import LocalResult, Place, train_locally
from pplr.wiring import prepare
from result_file import summary, write_result
from source_data import add_data_options, data_name, data_settings


def main(arguments: list[str] | None = None) -> None:
    """Measure and write the result file."""
    options = _options(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    config = _configuration(options)
    parts = prepare(config, ignore)
    backbone = parts.backbone
    if not isinstance(backbone, SequenceBackbone):
        raise TypeError("The configuration must name the sequence backbone.")
    examples = backbone.examples(parts.dataset.training())
    row = backbone.layout.initial_row(1)
    settings = config.training.model_copy(update={"epochs": 1})
    walls, cpus, peaks, results = [], [], [], []
    for repeat in range(options.repeats + 1):
        peaks.append(matmul_rate())
        wall, cpu = time.perf_counter(), time.process_time()
        result = train_locally(backbone, row, examples, settings, Place(1, "everyone", repeat + 1, 0.0))
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
        results.append(result)
        row = result.row
    walls, cpus, results = walls[1:], cpus[1:], results[1:]  # the first epoch warms up
    seconds = summary(walls)
    flops, peak = _flops(backbone, examples, results[0]), best(peaks)
    cpu = summary(cpus)["median"]
    figures: dict[str, Any] = {
        "data": data_name(options),
        "model": options.model,
        "events": results[0].targets,
        "items": backbone.items,
        "steps": results[0].steps,
        "repeats": options.repeats,
        "seconds_per_epoch": seconds,
        "cpu_seconds_per_epoch": cpu,
        "phases": {phase: summary([r.seconds[phase] for r in results])["median"] for phase in results[0].seconds},
        "events_per_second": results[0].targets / seconds["median"],
        "flops_per_epoch": flops,
        "matmul_peak_gflops": peak.per_second / 1e9,
        "share_of_matmul_peak": flops / seconds["median"] / peak.per_second,
        "share_of_matmul_peak_in_cpu_time": flops / cpu / peak.per_cpu_second,
        "training_loss": [result.loss for result in results],
    }
    write_result(options.output, "sequence_speed", figures)


def _flops(backbone: SequenceBackbone, examples: ItemSequences, result: LocalResult) -> float:
    s = backbone.settings
    items, hidden = backbone.vectors.shape
    lengths = examples.lengths.astype(float)
    projection = 4.0 * items * hidden * s.width * result.steps
    scores = 6.0 * result.targets * items * s.width
    network = s.layers * (72.0 * s.width**2 * lengths.sum() + 6.0 * s.width * (lengths**2).sum())
    return projection + scores + float(network)


def _configuration(options: argparse.Namespace) -> Config:
    sections = {
        "data": data_settings(options).model_dump(),
        "clients": {"kind": "random", "count": 1},
        "backbone": {"kind": "sequence", "model": options.model},
    }
    return parse_config(sections, Path())


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data_options(parser)
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--repeats", type=int, default=3, help="epochs that are measured, after one that is not")
    parser.add_argument("--threads", type=int, help="CPU threads; absent: torch's choice")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
