"""A SuperNode that is killed while its silo trains costs that silo's answer, and not the run."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

from pplr.silos.one_machine import run_on_one_machine
from whole_runs import configuration


@pytest.mark.slow
def test_a_killed_supernode_costs_its_answer(files: Path, tmp_path: Path) -> None:
    config = configuration(
        files, federation={"rounds": 3, "deadline_seconds": 15}, evaluation={"baselines": False, "ks": [10]}
    )
    killed: list[int] = []

    def kill(event) -> None:
        if event.name == "round_started" and event.round == 2 and not killed:
            log = (tmp_path / "run.flower" / "silos" / "shop-1" / "silo.log").read_text()
            killed.append(int(re.findall(r"SuperNode of shop-1 started, process (\d+)", log)[-1]))
            os.killpg(killed[0], signal.SIGKILL)

    result = run_on_one_machine(config, "flower", tmp_path / "run", observer=kill)
    absences = [record["absent"] for record in result.metrics["rounds"]]
    assert killed
    assert absences[0] == {} and set(absences[1]) == {"shop-1"}
    trained = [[c["trained"] for c in record["clients"].values()] for record in result.metrics["rounds"]]
    assert trained == [[True, True, True], [True, False, True], [True, True, True]], "it is back in the next round"
    assert result.metrics["clients"]["shop-1"]["users"] > 0
