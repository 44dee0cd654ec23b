"""Comparing and mixing the rows of many clients against the two bare matrix products that it cannot do without.

    python benchmarks/aggregation.py --output benchmarks/results/aggregation.json

Bare: theta @ theta.T and D @ theta, each in one call, the second into a new matrix as large as the bank. Ours: the
bank's `gram` and `mix_`, which work in blocks and leave the result in the bank. Both in the same process, in turn; the
ratio is that of the medians of their sums. Extra memory is the highest resident memory during a call less that before.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from peak_memory import peak_bytes, reset_peak, resident_bytes
from pplr.models.bank import BLOCK_BYTES, AdapterBank, gram
from result_file import summary, write_result


def main(arguments: list[str] | None = None) -> None:
    """Measure and write the result file."""
    options = _options(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    generator = torch.Generator().manual_seed(1)
    theta = torch.empty(options.clients, options.parameters)
    for row in theta:
        row.uniform_(-1, 1, generator=generator)
    bank = AdapterBank([f"client-{number:04}" for number in range(options.clients)], theta)
    mixing = torch.rand(options.clients, options.clients, generator=generator, dtype=torch.float64)
    mixing += options.clients * torch.eye(options.clients, dtype=torch.float64)
    mixing /= mixing.sum(1, keepdim=True)
    small = mixing.float()
    _warm_up()
    runs: dict[str, list[dict[str, float]]] = {"bare gram": [], "gram": [], "bare mix": [], "mix": []}
    differences = {"gram": 0.0, "mix": 0.0}
    for _ in range(options.repeats):
        bare, run = _measured(lambda: theta @ theta.T)
        runs["bare gram"].append(run)
        ours, run = _measured(lambda: gram(bank.rows))
        runs["gram"].append(run)
        differences["gram"] = max(differences["gram"], float((ours - bare).abs().max() / bare.abs().max()))
        expected, run = _measured(lambda: small @ theta)
        runs["bare mix"].append(run)
        _, run = _measured(lambda: bank.mix_(mixing))
        runs["mix"].append(run)
        differences["mix"] = max(differences["mix"], _largest_difference(bank.rows, expected))
        del expected
    figures = _figures(runs, options.repeats)
    figures |= {"largest_difference": differences, "bank_bytes": theta.numel() * theta.element_size()}
    figures |= {"clients": options.clients, "parameters": options.parameters, "block_bytes": BLOCK_BYTES}
    write_result(options.output, "aggregation", {"target": 1.3, "repeats": options.repeats, **figures})


def _measured(work: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    before = resident_bytes()
    reset_peak()
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    run = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    return result, {**run, "extra_bytes": float(peak_bytes() - before)}


def _figures(runs: dict[str, list[dict[str, float]]], repeats: int) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for clock in ("wall", "cpu"):
        sums = {
            name: [sum(runs[part][i][clock] for part in parts) for i in range(repeats)]
            for name, parts in (("bare", ("bare gram", "bare mix")), ("ours", ("gram", "mix")))
        }
        medians = {name: summary(values)["median"] for name, values in sums.items()}
        ratio = "ratio" if clock == "wall" else "ratio_of_cpu_seconds"
        figures[ratio] = medians["ours"] / medians["bare"]
    figures["seconds"] = {name: summary([run["wall"] for run in values]) for name, values in runs.items()}
    figures["extra_bytes"] = {name: max(run["extra_bytes"] for run in values) for name, values in runs.items()}
    return figures


def _largest_difference(rows: Tensor, expected: Tensor) -> float:
    step = 65536
    widths = range(0, rows.shape[1], step)
    return max(float((rows[:, w : w + step] - expected[:, w : w + step]).abs().max()) for w in widths)


def _warm_up() -> None:
    small = torch.rand(256, 256)
    AdapterBank([str(i) for i in range(256)], small).mix_(small.double())


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--parameters", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--threads", type=int, help="CPU threads; absent: torch's choice")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
