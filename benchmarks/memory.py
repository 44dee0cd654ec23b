"""What four more clients cost in memory: peak resident memory of a federation of five against one of one client.

    python benchmarks/memory.py --output benchmarks/results/memory.json

Each federation runs in a fresh process, with the generative backbone and a few steps per client and round; every client
has as much data in the one as in the other. The peak is that of the whole process (VmHWM), loading included.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from peak_memory import peak_bytes, resident_bytes
from pplr.federation.events import ignore
from pplr.wiring import prepare
from result_file import write_result
from small_federation import configuration, federate
from source_data import add_data_options, data_name, data_settings


def main(arguments: list[str] | None = None) -> None:
    """Measure and write the result file; with `--worker N`, be one federation of N clients and print its memory."""
    given = sys.argv[1:] if arguments is None else arguments
    options = _options(given)
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.worker:
        print(json.dumps(_federation(options)))
        return
    runs: dict[str, list[dict[str, float]]] = {"1": [], "5": []}
    for _ in range(options.repeats):
        for clients, results in runs.items():
            command = [sys.executable, __file__, *given, "--worker", clients]
            output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
            results.append(json.loads(output.splitlines()[-1]))
    peaks = {clients: max(run["peak_bytes"] for run in results) for clients, results in runs.items()}
    figures = {
        "data": data_name(options),
        "model": options.model,
        "examples_per_client": options.examples,
        "rounds": options.rounds,
        "repeats": options.repeats,
        "peak_bytes": peaks,
        "runs": runs,
        "ratio": peaks["5"] / peaks["1"],
        "target": 1.25,
    }
    write_result(options.output, "memory", figures)


def _federation(options: argparse.Namespace) -> dict[str, float]:
    """Run a federation of `options.worker` clients and return its memory in bytes."""
    config = configuration(
        data_settings(options).model_dump(),
        {"kind": "generative", "model": options.model, "examples": "last"},
        {"epochs": 1, "learning_rate": 1e-4, "batch_tokens": 1024, "max_examples": 5 * options.examples},
        rounds=options.rounds,
        max_users=4,
    )
    parts = prepare(config, ignore)
    clients = parts.trainers()[: options.worker]
    loaded = resident_bytes()
    with tempfile.TemporaryDirectory() as folder:
        federate(parts, clients, Path(folder))
    return {"loaded_bytes": loaded, "peak_bytes": peak_bytes(), "row_bytes": 4 * parts.backbone.layout.size}


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data_options(parser)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--examples", type=int, default=16, help="training examples per client")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--threads", type=int, help="CPU threads; absent: torch's choice")
    parser.add_argument("--worker", type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
