"""The share of a federation's time that is neither training nor evaluation: engine, coordinator, mixing, checkpoints.

    python benchmarks/engine_overhead.py --output benchmarks/results/engine_overhead.json

From the wall time of all rounds of an in-process federation of five clients, with a checkpoint after each, everything
is taken away that the clients spent in the catalogue's encoding, forward, backward, optimiser and evaluation. What is
left is the overhead. Making a batch's tokens counts as forward.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch

from pplr.federation.events import ignore
from pplr.wiring import prepare
from result_file import write_result
from small_federation import Finished, configuration, federate
from source_data import add_data_options, data_name, data_settings

PHASES = ("encode", "forward", "backward", "optimiser")


def main(arguments: list[str] | None = None) -> None:
    """Measure and write the result file."""
    options = _options(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    backbones: dict[str, tuple[dict[str, Any], dict[str, Any], int | None]] = {
        "sequence": (
            {"kind": "sequence", "model": options.encoder},
            {"epochs": 2, "max_examples": options.sequence_examples},
            options.sequence_users,
        ),
        "generative": (
            {"kind": "generative", "model": options.decoder, "examples": "last"},
            {"epochs": 1, "learning_rate": 1e-4, "max_examples": 5 * options.generative_examples},
            4,
        ),
    }
    found = {}
    for name, (backbone, training, users) in backbones.items():
        data = data_settings(options).model_dump()
        config = configuration(data, backbone, training, rounds=options.rounds, max_users=users)
        parts = prepare(config, ignore)
        with tempfile.TemporaryDirectory() as folder:
            found[name] = _shares(federate(parts, parts.trainers(), Path(folder)))
    figures = {"data": data_name(options), "encoder": options.encoder, "decoder": options.decoder}
    share = max(shares["overhead_share"] for shares in found.values())
    write_result(
        options.output,
        "engine_overhead",
        {**figures, "rounds": options.rounds, "backbones": found, "overhead_share": share, "target": 0.03},
    )


def _shares(finished: Finished) -> dict[str, float]:
    """Return seconds by phase, and the share of what is left."""
    clients = [client for record in finished.rounds for client in record.clients.values()]
    seconds = {phase: sum(client.seconds.get(phase, 0.0) for client in clients) for phase in PHASES}
    seconds["evaluation"] = finished.evaluation
    left = finished.seconds - sum(seconds.values())
    return {**seconds, "overhead": left, "total": finished.seconds, "overhead_share": left / finished.seconds}


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data_options(parser)
    parser.add_argument("--encoder", default="minilm", help="language model of the sequence backbone")
    parser.add_argument("--decoder", default="smollm2-135m", help="language model of the generative backbone")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--sequence-examples", type=int, help="histories over all clients; absent: all")
    parser.add_argument("--sequence-users", type=int, help="validation users per client; absent: all")
    parser.add_argument("--generative-examples", type=int, default=16, help="training examples per client")
    parser.add_argument("--threads", type=int, help="CPU threads; absent: torch's choice")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
