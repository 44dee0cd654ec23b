"""Training through a trunk's server against the unsplit model, and four clients at once against one after another.

    python benchmarks/trunk_training.py --output benchmarks/results/trunk_training.json \\
        --events interactions.csv.gz --items items.csv.gz --split global-time

Server and clients are processes of their own on this machine, with mutual TLS over loopback, each with as many threads
as the unsplit model has; they share the same cores. In every repeat the unsplit model, one client, the clients one after
another, and all at once take turns on the same examples; ratios are of medians.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pplr.backbones import load_backbone
from pplr.config import Config, config_toml
from pplr.cores import share_cores
from pplr.models.generative import TitleExamples
from pplr.models.hub import resolve
from pplr.models.parts.settings import SplitPlacement, WholePlacement
from pplr.models.settings import GenerativeSettings
from pplr.training import Place, TrainingSettings, train_locally
from pplr.trunk.remote import RemoteAccess
from pplr.trunk.stub import StubTrunk
from result_file import summary, write_result
from source_data import add_data_options, data_name, data_settings, load_data
from training_throughput import tokens_per_batch
from trunk_server import Server, make_certificates


def main(arguments: list[str] | None = None) -> None:
    """Measure and write the result file."""
    options = _options(arguments)
    names = [f"client-{number}" for number in range(options.clients)]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        make_certificates(work / "certificates", names)
        placement = SplitPlacement(
            bottom=options.bottom,
            server="127.0.0.1:1",
            certificates=str(work / "certificates"),
            codec=options.codec,
            pieces=options.pieces,
        )
        config = Config(
            threads=options.threads,
            device=options.device,
            data=data_settings(options),
            backbone=GenerativeSettings(model=options.model, examples="last"),
            placement=placement,
        )
        (work / "trunk.toml").write_text(config_toml(config), encoding="utf-8")
        joint = () if options.joint_tokens is None else ("--joint-tokens", str(options.joint_tokens))
        with Server(work, *joint) as server:
            config = config.model_copy(update={"placement": placement.model_copy(update={"server": server.address})})
            figures = _measured(options, config, names)
    write_result(options.output, "trunk_training", figures)


def _measured(options: argparse.Namespace, config: Config, names: list[str]) -> dict[str, Any]:
    control = RemoteAccess(config, resolve(options.model), names).control(fresh=True)
    whole = Worker(config.model_copy(update={"placement": WholePlacement()}), names[0], options)
    share_cores()  # as `pplr silo run` does; the unsplit model has its cores for itself
    clients = [Worker(config, name, options) for name in names]
    seconds: dict[str, list[float]] = {name: [] for name in ("whole", "split", "one_after_another", "at_once")}
    round_number = 0
    for repeat in range(options.repeats + 1):  # the first is to warm up

        def timed(kind: str, groups: list[list[Worker]], repeat: int = repeat) -> None:
            nonlocal round_number
            round_number += 1
            control.begin_round(round_number)
            started = time.perf_counter()
            for group in groups:
                for worker in group:
                    worker.begin(round_number)
                for worker in group:
                    worker.wait()
            if repeat:
                seconds[kind].append(time.perf_counter() - started)

        timed("whole", [[whole]])
        timed("split", [[clients[0]]])
        timed("one_after_another", [[client] for client in clients])
        timed("at_once", [clients])
        print({name: values[-1:] for name, values in seconds.items()}, flush=True)
    for worker in (whole, *clients):
        worker.end()
    medians = {name: summary(values)["median"] for name, values in seconds.items()}
    return {
        "data": data_name(options),
        "model": options.model,
        "device": options.device,
        "bottom": options.bottom,
        "codec": options.codec,
        "pieces": options.pieces,
        "joint_tokens": options.joint_tokens,
        "clients": options.clients,
        "examples": options.examples,
        "examples_per_step": options.batch,
        "threads_each": options.threads,
        "seconds": {name: summary(values) for name, values in seconds.items()},
        "split_over_whole": medians["split"] / medians["whole"],
        "at_once_speedup": medians["one_after_another"] / medians["at_once"],
        "targets": {"split_over_whole": 1.15, "at_once_speedup": 1.0 if options.device == "cpu" else 2.5},
    }


class Worker:
    """One client as a process, which trains when it is told to."""

    def __init__(self, config: Config, name: str, options: argparse.Namespace) -> None:
        context = multiprocessing.get_context("spawn")
        self._here, there = context.Pipe()
        self._process = context.Process(target=_work, args=(there, config, name, options), daemon=True)
        self._process.start()
        self.wait()

    def begin(self, round_number: int) -> None:
        """Have it train for a round."""
        self._here.send(round_number)

    def wait(self) -> None:
        """Wait until it has done."""
        self._here.recv()

    def end(self) -> None:
        """Let it go."""
        self._here.send(None)
        self._process.join()


def _work(pipe: Connection, config: Config, name: str, options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    dataset = load_data(options)
    backbone, files = load_backbone(config, dataset.catalogue, lambda event: None)
    link = None
    if isinstance(config.placement, SplitPlacement):
        link = RemoteAccess(config, files, [name]).link(name)
        backbone = backbone.behind(StubTrunk(link))
    examples: TitleExamples = backbone.examples(dataset.training())
    chosen = np.random.default_rng(1).permutation(len(examples))[: options.examples]
    examples = examples.select(np.sort(chosen).astype(np.int64))
    training = TrainingSettings(learning_rate=1e-4, batch_tokens=tokens_per_batch(examples.lengths, options.batch))
    row = backbone.layout.initial_row(1).to(backbone.device)
    pipe.send("ready")
    while (number := pipe.recv()) is not None:
        train_locally(backbone, row, examples, training, Place(1, name, number, 0.0), elsewhere=link)
        pipe.send("done")


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data_options(parser)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--bottom", type=int, default=2)
    parser.add_argument("--codec", default="bfloat16", choices=("float32", "bfloat16", "int8"))
    parser.add_argument(
        "--pieces", type=int, default=1, help="2 or more only pay where client and server have cores of their own"
    )
    parser.add_argument("--joint-tokens", type=int, help="absent: what suits the device")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--examples", type=int, default=64, help="per client")
    parser.add_argument("--batch", type=int, default=8, help="examples per step")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of each process")
    parser.add_argument("--device", default="cpu")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
