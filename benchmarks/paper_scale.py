"""The generative run at the scale of the paper's: 5 clients, 1,024 training examples, global-time split, 10 rounds.

    python benchmarks/paper_scale.py --data FOLDER --work FOLDER --output benchmarks/results/paper_scale.json

FOLDER is amazon-games (interactions.csv.gz with a `split` column, items.csv.gz). Stopped at any moment, the same
command goes on after the last finished round.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import torch

from pplr.config import Config, parse_config
from pplr.data.dataset import Part
from pplr.federation import Client, Coordinator
from pplr.federation.checkpoints import CheckpointStore
from pplr.federation.engines import InProcessEngine
from pplr.federation.events import Event
from pplr.federation.messages import EvaluateTask
from pplr.wiring import prepare
from result_file import write_result


def configuration(data: Path, rounds: int, threads: int) -> Config:
    """Return the run's configuration."""
    return parse_config(
        {
            "name": "paper-scale",
            "threads": threads,
            "data": {
                "events": str(data / "interactions.csv.gz"),
                "items": str(data / "items.csv.gz"),
                "split": {"kind": "global-time"},
            },
            "backbone": {"kind": "generative", "history_items": 10, "title_tokens": 24, "prompt_tokens": 320},
            "training": {"epochs": 1, "learning_rate": 5e-4, "batch_tokens": 1536, "max_examples": 1024},
            "federation": {"rounds": rounds},
            "evaluation": {"max_users": 20},
        },
        Path(),
    )


def main() -> None:
    """Run and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    config = configuration(options.data, options.rounds, options.threads)
    parts = prepare(config, show)
    clients = parts.trainers()
    row = parts.backbone.layout.initial_row(config.seed)
    before = {client.info.name: loss_of(client, row) for client in clients}
    store = CheckpointStore(options.work / "checkpoints")
    coordinator = Coordinator(
        InProcessEngine(clients),
        config.strategy,
        config.federation,
        row,
        seed=config.seed,
        select_by="loss",
        store=store,
        observer=show,
    )
    if store.rounds():
        coordinator.resume()
    coordinator.run()
    metrics = {client.info.name: tested(client) for client in clients}
    figures = {
        "data": options.data.resolve().name,
        "model": config.backbone.model,
        "examples": {client.info.name: client.info.size for client in clients},
        "validation_loss_before": before,
        "rounds": [record.model_dump(mode="json") for record in coordinator.progress.history],
        "test": metrics,
        "configuration": {k: v for k, v in config.model_dump(mode="json").items() if k != "data"},
    }
    write_result(options.output, "paper_scale", figures)


def loss_of(client: Client, row: torch.Tensor) -> float:
    """Return the validation loss of a row."""
    return client.evaluate(EvaluateTask(client.info.name, 0, Part.VALIDATION, row, rank=False)).loss


def tested(client: Client) -> dict[str, Any]:
    """Return the test figures of the client's best row, with catalogue grounding."""
    report = client.evaluate(EvaluateTask(client.info.name, 0, Part.TEST, None, rank=True))
    loss = None if math.isnan(report.loss) else report.loss
    return {"users": report.users, "loss": loss, **report.metrics}


def show(event: Event) -> None:
    """Print what happens."""
    if not event.transient:
        print(event.name, event.round, event.client, event.data, flush=True)


if __name__ == "__main__":
    main()
