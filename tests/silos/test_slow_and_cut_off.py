"""A silo that takes more than ten times as long, and one whose network is cut for a minute, cost their own answers alone."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading
import time
from pathlib import Path

import polars as pl
import pytest

from machines import machines
from parties import PPLR, Parties
from pplr.config import config_toml
from pplr.pki import Authority, Identity, Role
from pplr.silos.one_machine import run_on_one_machine
from pplr.silos.processes import free_port
from whole_runs import configuration, copied

SILOS = ["shop-0", "shop-1", "shop-2"]
COMMON = {"evaluation": {"baselines": False, "ks": [10]}}
CUT_SECONDS = 60.0


class Slowed:
    """A process that is let run a twentieth of the time while the block lasts."""

    def __init__(self, process: int) -> None:
        self._process = process
        self._leaving = threading.Event()
        self._thread = threading.Thread(target=self._slow)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._leaving.set()
        self._thread.join()
        os.kill(self._process, signal.SIGCONT)

    def _slow(self) -> None:
        while not self._leaving.is_set():
            for what, seconds in ((signal.SIGCONT, 0.01), (signal.SIGSTOP, 0.19)):
                os.kill(self._process, what)
                self._leaving.wait(seconds)


def trained(metrics: dict) -> list[list[bool]]:
    return [[record["clients"][name]["trained"] for name in SILOS] for record in metrics["rounds"]]


@pytest.mark.patient
def test_a_slow_silo_is_left_out_and_its_late_answer_counts_for_nothing(files: Path, tmp_path: Path) -> None:
    """Its 1,000 epochs take some three seconds at full speed, ten beside the others', and sixty when it is slowed."""
    training = {"epochs": 1000, "batch_tokens": 300}
    config = configuration(files, federation={"rounds": 4, "deadline_seconds": 30}, training=training, **COMMON)
    slowed: list[Slowed] = []

    def slow(event) -> None:
        if event.name == "round_started" and event.round == 2 and not slowed:
            word = str(tmp_path / "run.flower" / "silos" / "shop-1")
            found = subprocess.run(
                ["pgrep", "-f", f"silo run .*--state {word}"], capture_output=True, text=True, check=True
            )
            slowed.append(Slowed(int(found.stdout.split()[0])))
            slowed[0].__enter__()
        if event.name == "round_finished" and event.round == 2:
            slowed[0].__exit__()

    result = run_on_one_machine(config, "flower", tmp_path / "run", observer=slow)
    assert trained(result.metrics)[:2] == [[True, True, True], [True, False, True]]
    assert trained(result.metrics)[3] == [True, True, True], "it has caught up"
    assert "30 seconds" in result.metrics["rounds"][1]["absent"]["shop-1"]
    assert all(record["quarantined"] == [] for record in result.metrics["rounds"]), "a late answer is no wrong one"
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    rounds = [
        event["round"] for event in events if event["event"] == "client_trained" and event.get("client") == "shop-1"
    ]
    assert len(rounds) == len(set(rounds)) and 2 not in rounds


@pytest.mark.patient
def test_a_network_that_is_cut_for_a_minute_costs_the_answers_of_that_minute(files: Path, tmp_path: Path) -> None:
    with machines(2) as (what, (first, second)), Parties() as parties:
        if not first.enter:
            pytest.skip(f"{what}: their network cannot be cut")
        address = f"{first.address}:{free_port()}"
        folder = copied(files, tmp_path / "files")
        federation = {"rounds": 8, "patience": 8, "deadline_seconds": 15, "silos": SILOS}
        (folder / "shop.toml").write_text(config_toml(configuration(folder, federation=federation, **COMMON)))
        authority = Authority.create(folder / "certificates")
        authority.issue(Identity(Role.COORDINATOR, "coordinator"), [first.address])
        for name in SILOS:
            authority.issue(Identity(Role.CLIENT, name))
        shown = ("--certificates", "certificates")
        for name, machine in zip(SILOS, (first, first, second), strict=True):
            words = ("silo", "run", "shop.toml", "--name", name, "--state", name, "--coordinator", address, *shown)
            parties.start(folder, f"{name}.log", *machine.enter, *PPLR, *words)
        words = ("coordinator", "run", "shop.toml", "--listen", address, "--out", "run", *shown)
        rounds = parties.start(folder, "coordinator.log", *first.enter, *PPLR, *words)
        rounds.until(lambda: "Round 2 of 8" in rounds.said)
        name = second.enter[-1]
        subprocess.run(["ip", "-n", name, "link", "set", "eth0", "down"], check=True)
        began = time.monotonic()
        while time.monotonic() - began < CUT_SECONDS and rounds.process.poll() is None:
            time.sleep(0.2)
        subprocess.run(["ip", "-n", name, "link", "set", "eth0", "up"], check=True)
        assert rounds.ended() == 0, rounds.said[-2000:]
    metrics = json.loads((folder / "run" / "metrics.json").read_text())
    there = [clients[2] for clients in trained(metrics)]
    assert there[0] and not all(there)
    assert there[-1], f"it is back: {there}"
    assert all(clients[:2] == [True, True] for clients in trained(metrics)), "the others notice nothing"
    assert metrics["clients"]["shop-2"]["users"] > 0
    assert re.search(r"Round 8 of 8", rounds.said)
    events = pl.read_ndjson(folder / "run" / "events.jsonl", infer_schema_length=None)
    assert events.filter(pl.col("event") == "resumed").is_empty()
