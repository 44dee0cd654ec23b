"""A federation of processes that are killed again and again, and the same one without any kill in which the same silos were missing.

    python benchmarks/killed_processes.py --output benchmarks/results/killed_processes.json

Coordinator, trunk's server and three silos run by their commands, over TLS, each under a supervisor that starts it again when it
has not ended well. Processes of all kinds get SIGKILL at moments drawn from a seed. The run has to end. Then the rounds are computed
once more in this process, with the whole model and without those silos that were missing in a round, and the numbers are compared.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pplr.config import Config, config_toml, parse_config
from pplr.data.dataset import Part
from pplr.federation import Client, Coordinator
from pplr.federation.checkpoints import CheckpointStore
from pplr.federation.engines import InProcessEngine
from pplr.federation.events import Observer, ignore
from pplr.federation.history import RoundRecord
from pplr.federation.messages import Absence, EvaluateTask, Report, TrainTask, Update
from pplr.pki import Authority, Identity, Role
from pplr.silos.processes import free_port
from pplr.trunk.build import split_placement
from pplr.wiring import prepare
from result_file import write_result
from small_llama import write_small_llama

MARK = "PPLR_KILLED_PROCESSES"
"""In the environment of every process of a run, so that no other one is killed."""
KINDS = {
    "Flower's process for one message": "flwr-clientapp",
    "SuperNode": "flower-supernode",
    "a silo's process": "pplr silo run",
    "SuperLink": "flower-superlink",
    "Flower's process of the rounds": "flwr-serverapp",
    "the coordinator's command": "pplr coordinator run",
    "the trunk's server": "pplr trunk serve",
}
"""What is killed, and what its command line has."""
AGAIN_SECONDS = 1.0


def main(arguments: list[str] | None = None) -> None:
    """Measure and write the result file."""
    options = _options(arguments)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_small_llama(folder / "model", width=32, layers=4)
        config = _configuration(folder, options.rounds)
        kills, starts, seconds = _killed_run(config, folder, options)
        metrics = json.loads((folder / "run" / "metrics.json").read_text(encoding="utf-8"))
        largest = _compared(config, metrics, _measured(folder, config), folder)
    rounds = metrics["rounds"]
    figures = {
        "rounds": len(rounds),
        "silos": len(config.federation.silos),
        "kills": dict(sorted(kills.items())),
        "killed": sum(kills.values()),
        "starts": starts,
        "missing": {str(r["round"]): r["absent"] for r in rounds if r["absent"]},
        "largest_relative_difference": largest,
        "seconds": seconds,
    }
    write_result(options.output, "killed_processes", figures)


def _configuration(folder: Path, rounds: int) -> Config:
    port = free_port()
    sections = {
        "name": "killed",
        "threads": 1,
        "device": "cpu",
        "data": {"demo": "movietweetings"},
        "clients": {"kind": "random", "count": 3},
        "backbone": {"kind": "generative", "model": str(folder / "model"), "examples": "last"},
        "placement": {
            "kind": "split",
            "bottom": 1,
            "top": 1,
            "server": f"127.0.0.1:{port}",
            "certificates": str(folder / "certificates"),
            "pieces": 1,
            "wait_seconds": 600.0,
        },
        "training": {"max_examples": 48, "batch_tokens": 2000, "learning_rate": 1e-3},
        "federation": {"rounds": rounds, "patience": rounds, "deadline_seconds": 20.0, "quorum": 0.3},
        "evaluation": {"max_users": 4, "select_by": "loss", "baselines": False, "ks": [10]},
    }
    config = parse_config(sections, folder)
    names = tuple(owner.name for owner in prepare(_whole(config), ignore).owners)
    return config.model_copy(update={"federation": config.federation.model_copy(update={"silos": names})})


def _whole(config: Config) -> Config:
    return parse_config(config.model_dump(mode="json") | {"placement": {"kind": "whole"}}, Path())


class Kept:
    """A command under a supervisor: it is started again until it ends well, or the block ends."""

    def __init__(self, folder: Path, log: str, words: Sequence[str], again: Sequence[str] = ()) -> None:
        """Run `words`, and from the second time on `again` behind them."""
        self.starts = 0
        self.done = threading.Event()
        self._folder = folder
        self._log = folder / log
        self._words = list(words)
        self._again = list(again)
        self._leaving = threading.Event()
        self._thread = threading.Thread(target=self._keep)

    def __enter__(self) -> Kept:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._leaving.set()
        self._thread.join()

    def _keep(self) -> None:
        while not self._leaving.is_set():
            command = [sys.executable, "-m", "pplr", *self._words, *(self._again if self.starts else [])]
            environment = os.environ | {MARK: str(self._folder), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
            with self._log.open("ab") as log:
                process = subprocess.Popen(command, cwd=self._folder, stdout=log, stderr=log, env=environment)
            self.starts += 1
            while process.poll() is None and not self._leaving.wait(0.1):
                pass
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.wait()
            if process.returncode == 0:
                self.done.set()
                return
            self._leaving.wait(AGAIN_SECONDS)


def _killed_run(
    config: Config, folder: Path, options: argparse.Namespace
) -> tuple[Counter[str], dict[str, int], float]:
    """Run the federation to its end while its processes are killed; return what was killed, and what was started how often."""
    (folder / "killed.toml").write_text(config_toml(config), encoding="utf-8")
    authority = Authority.create(folder / "certificates")
    authority.issue(Identity(Role.TRUNK, "trunk"), ["127.0.0.1"])
    authority.issue(Identity(Role.COORDINATOR, "coordinator"), ["127.0.0.1"])
    for name in config.federation.silos:
        authority.issue(Identity(Role.CLIENT, name))
    rounds = f"127.0.0.1:{free_port()}"
    shown = ("--certificates", "certificates")
    trunk = Kept(
        folder,
        "trunk.log",
        ["trunk", "serve", "killed.toml", "--listen", str(split_placement(config).server), "--state", "trunk", *shown],
    )
    silos = [
        Kept(
            folder,
            f"{name}.log",
            ["silo", "run", "killed.toml", "--name", name, "--state", f"state-{name}", "--coordinator", rounds, *shown],
        )
        for name in config.federation.silos
    ]
    coordinator = Kept(
        folder,
        "coordinator.log",
        ["coordinator", "run", "killed.toml", "--listen", rounds, "--out", "run", *shown],
        ["--resume"],
    )
    coordinator_done = coordinator.done
    started, random, kills = time.monotonic(), np.random.default_rng(options.seed), Counter[str]()
    with trunk, silos[0], silos[1], silos[2], coordinator:
        _until(lambda: _rounds_done(folder) >= 1 or coordinator_done.is_set(), started + options.limit)
        wanted = [list(KINDS)[number % len(KINDS)] for number in random.permutation(options.kills)]
        for kind in wanted:
            before = _rounds_done(folder)
            time.sleep(float(random.uniform(0, options.pause)))
            if victim := _victim(kind, folder, random, coordinator_done):
                os.kill(victim, signal.SIGKILL)
                kills[kind] += 1
                print(f"{time.monotonic() - started:6.1f} s: killed {kind} ({before} rounds done)", flush=True)
            _wait_for_a_round(folder, coordinator_done, options.patience)
        _until(coordinator_done.is_set, started + options.limit)
        seconds = time.monotonic() - started
    starts = {"coordinator": coordinator.starts, "trunk": trunk.starts}
    return kills, starts | {f"silo {n}": s.starts for n, s in zip(config.federation.silos, silos, strict=True)}, seconds


def _until(ready: Any, deadline: float) -> None:
    while not ready():
        if time.monotonic() > deadline:
            raise SystemExit("The run did not end in time.")
        time.sleep(0.1)


def _wait_for_a_round(folder: Path, done: threading.Event, seconds: float) -> None:
    """Wait until one round more is done, for so many seconds at most."""
    now, deadline = _rounds_done(folder), time.monotonic() + seconds
    while _rounds_done(folder) == now and time.monotonic() < deadline and not done.wait(0.1):
        pass


def _rounds_done(folder: Path) -> int:
    path = folder / "run" / "events.jsonl"
    return path.read_text(encoding="utf-8").count('"round_finished"') if path.is_file() else 0


def _victim(kind: str, folder: Path, random: np.random.Generator, done: threading.Event) -> int | None:
    """Wait for a process of a kind, and return it; None where the run has ended before."""
    while not done.is_set():
        found = sorted(_processes(KINDS[kind], folder))
        if found:
            return found[int(random.integers(len(found)))]
        time.sleep(0.01)
    return None


def _processes(words: str, folder: Path) -> Iterator[int]:
    mark = f"{MARK}={folder}".encode()
    for path in Path("/proc").iterdir():
        if not path.name.isdigit():
            continue
        try:
            line = (path / "cmdline").read_bytes().replace(b"\0", b" ")
            if words.encode() in line and mark in (path / "environ").read_bytes():
                yield int(path.name)
        except OSError:  # it has ended
            continue


class Missing(InProcessEngine):
    """The engine of one process, in which some clients are missing in some rounds."""

    def __init__(
        self, clients: Sequence[Client], rounds: dict[int, dict[str, Any]], measured: set[tuple[int, str]]
    ) -> None:
        super().__init__(clients)
        self._rounds = rounds
        self._measured = measured

    def train(
        self, tasks: Sequence[TrainTask], observer: Observer, seconds: float | None = None
    ) -> Iterator[Update | Absence]:
        """Give an update of each client that was there."""
        absent = self._rounds[tasks[0].round]["absent"]
        yield from super().train([task for task in tasks if task.client not in absent], observer, seconds)
        for name in absent:
            yield Absence(name, tasks[0].round, "it was missing")

    def evaluate(self, tasks: Sequence[EvaluateTask], observer: Observer, seconds: float | None = None) -> list[Report]:
        """Return a report of each client that was heard; who measured itself unheard does so here."""
        clients = self._rounds[tasks[0].round]["clients"]
        reports = super().evaluate([t for t in tasks if (t.round, t.client) in self._measured], observer, seconds)
        return [report for report in reports if clients[report.client]["validation_loss"] is not None]


def _measured(folder: Path, config: Config) -> set[tuple[int, str]]:
    """Return the rounds in which each silo has measured itself, by its own log, whoever has heard of it."""
    found = set()
    for name in config.federation.silos:
        text, asked = (folder / f"{name}.log").read_text(encoding="utf-8", errors="replace"), 0
        for number, report in re.findall(r"in   evaluate of round (\d+)|(report, .* bytes)", text):
            if report:
                found.add((asked, name))
            else:
                asked = int(number)
    return found


def _compared(config: Config, metrics: dict[str, Any], measured: set[tuple[int, str]], folder: Path) -> float:
    """Return the largest relative difference between a run's numbers and those computed again."""
    rounds = {record["round"]: record for record in metrics["rounds"]}
    parts = prepare(_whole(config), ignore)
    clients = parts.trainers()
    row = parts.backbone.layout.initial_row(config.seed)[: parts.backbone.layout.shared]
    coordinator = Coordinator(
        Missing(clients, rounds, measured),
        config.strategy,
        config.federation,
        row,
        seed=config.seed,
        select_by=clients[0].select_by,
        store=CheckpointStore(folder / "again"),
        observer=ignore,
    )
    again: list[RoundRecord] = coordinator.run().history
    differences = [0.0]
    for record in again:
        before = rounds[record.round]
        for name, one in record.clients.items():
            found = one.model_dump()
            was = before["clients"][name]
            differences += [_difference(was[key], found[key]) for key in ("training_loss", "validation_loss")]
        differences += [
            _difference(a, b) for a, b in zip(np.ravel(before["mixing"]), np.ravel(record.mixing or []), strict=True)
        ]
    for client in clients:
        report = client.evaluate(EvaluateTask(client.info.name, 0, Part.TEST, None, rank=True))
        tested = metrics["clients"][client.info.name]
        differences += [_difference(tested["loss"], report.loss)]
        differences += [_difference(tested[key], value) for key, value in report.metrics.items()]
    return max(differences)


def _difference(one: float | None, other: float | None) -> float:
    if one is None or other is None:
        return 0.0 if one is other else float("inf")
    return abs(float(one) - float(other)) / max(abs(float(other)), 1e-6)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--pause", type=float, default=15.0, help="a process is killed within so many seconds")
    parser.add_argument("--patience", type=float, default=45.0, help="seconds that a round is waited for behind a kill")
    parser.add_argument("--limit", type=float, default=3000.0, help="seconds that the run may take")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
