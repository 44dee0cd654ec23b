"""What it saves a run of the encoder not to encode a catalogue again for the same adapters.

    python benchmarks/item_vectors.py --output benchmarks/results/item_vectors.json

The same run in one process with nothing kept and with item vectors kept, for each strategy: a sample of MovieTweetings, five
clients, two rounds, figures of test users equal to the last digit (else nothing is written). Times are of CPU, since other
programs may run beside, and of whole runs; one run before them is not timed. With more examples training is a larger part,
and what is saved a smaller one.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from pplr import Config, run, wiring
from pplr.config import parse_config
from pplr.federation.item_vectors import LARGEST_BYTES, ItemVectors
from pplr.models.backbone import Parameters
from pplr.models.encoder import EncoderBackbone
from result_file import write_result

STRATEGIES = ("fedavg", "pplr")
ROUNDS, EXAMPLES, USERS = 2, 100, 20
"""Rounds, training examples of all clients together, and users of each client that are asked: few, so that it ends."""


def main(arguments: list[str] | None = None) -> None:
    """Run each strategy twice, and write what was counted and timed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    timed(configuration(STRATEGIES[0], options.threads), LARGEST_BYTES)  # whatever is loaded or cached once
    runs = {strategy: compared(strategy, options.threads) for strategy in STRATEGIES}
    sample = {"rounds": ROUNDS, "examples": EXAMPLES, "users": USERS}
    write_result(options.output, "item_vectors", {"sample": sample, "runs": runs})


def compared(strategy: str, threads: int) -> dict[str, Any]:
    """Return encodings and CPU seconds of a run without and with vectors that are kept."""
    config = configuration(strategy, threads)
    measured = {name: timed(config, size) for name, size in (("nothing kept", 0), ("kept", LARGEST_BYTES))}
    figures = {name: found.pop("figures") for name, found in measured.items()}
    if figures["nothing kept"] != figures["kept"]:
        raise SystemExit(f"With {strategy} the two runs have other figures: what is kept is not what would be encoded.")
    ratio = measured["nothing kept"]["cpu_seconds"] / measured["kept"]["cpu_seconds"]
    return {**measured, "times_as_fast_in_cpu_time": ratio}


def configuration(strategy: str, threads: int) -> Config:
    """Return a run of the encoder on a sample of MovieTweetings."""
    return parse_config(
        {
            "threads": threads,
            "data": {"demo": "movietweetings"},
            "backbone": {"kind": "encoder", "precision": "bfloat16"},
            "strategy": {"kind": strategy},
            "federation": {"rounds": ROUNDS},
            "training": {"learning_rate": 3e-3, "batch_tokens": 1024, "max_examples": EXAMPLES},
            "evaluation": {"max_users": USERS},
        },
        Path(),
    )


def timed(config: Config, largest_bytes: int) -> dict[str, Any]:
    """Run once; of item vectors `largest_bytes` may be kept."""
    encoded, encode = [0], EncoderBackbone.encode_catalogue

    def counted(self: EncoderBackbone, parameters: Parameters) -> torch.Tensor | None:
        encoded[0] += 1
        return encode(self, parameters)

    with (
        tempfile.TemporaryDirectory() as folder,
        patch.object(EncoderBackbone, "encode_catalogue", counted),
        patch.object(wiring, "ItemVectors", partial(ItemVectors, largest_bytes=largest_bytes)),
    ):
        started = time.process_time()
        run(config, Path(folder) / "run")
        seconds = time.process_time() - started
        figures = json.loads((Path(folder) / "run/metrics.json").read_text(encoding="utf-8"))["clients"]
    return {"encodings": encoded[0], "cpu_seconds": seconds, "figures": figures}


if __name__ == "__main__":
    main()
