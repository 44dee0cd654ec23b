"""A process that is bound to another one ends with it, whatever it is doing."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pplr.run_folder import held
from pplr.silos.life import alive, identity, own_identity
from pplr.silos.plan import PLAN, PLAN_FILE, Plan

BOUND = """
import sys, threading
from pathlib import Path
from pplr.run_folder import held
from pplr.silos.life import end_with

end_with(sys.argv[1])
with held(Path(sys.argv[2])):
    print("held", flush=True)
    threading.Event().wait()
"""


def bound_to(other: subprocess.Popen[bytes], folder: Path) -> subprocess.Popen[str]:
    """Start a process that holds a run folder and waits for ever, bound to another one."""
    return subprocess.Popen(
        [sys.executable, "-c", BOUND, identity(other.pid), str(folder)], stdout=subprocess.PIPE, text=True
    )


def test_a_bound_process_lets_go_of_what_it_holds_when_the_other_one_is_killed_and_nobody_has_waited_for_it(
    tmp_path: Path,
) -> None:
    slept = [sys.executable, "-c", "import time; time.sleep(600)"]
    with subprocess.Popen(slept) as other, bound_to(other, tmp_path) as bound:
        try:
            assert bound.stdout is not None
            assert bound.stdout.readline() == "held\n"
            time.sleep(1.0)
            assert bound.poll() is None, "it ends only with the other one"
            assert alive(other.pid)
            other.kill()
            os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)  # a zombie from here on: its id is still taken
            assert not alive(other.pid)
            with held(tmp_path, wait=20.0):
                assert bound.wait(20.0) == 1
        finally:
            other.kill()
            bound.kill()


SERVER = """
import sys, time
import pplr.silos.coordinate
pplr.silos.coordinate.coordinate = lambda plan, grid: time.sleep(60)
from pplr.silos.server_app import main
main(None, None)
"""


@pytest.mark.parametrize("gone", ["another number", "a number that somebody else has now"])
def test_flowers_process_ends_where_the_command_that_asked_for_it_is_gone(tmp_path: Path, gone: str) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    coordinator = f"{dead.pid}:1" if gone == "another number" else f"{os.getpid()}:1"
    given = {"resume": False, "overwrite": False, "meet_seconds": 1.0, "silos": ("a", "b")}
    plan = Plan(str(tmp_path), str(tmp_path / "config.toml"), str(tmp_path / "run"), **given, coordinator=coordinator)
    plan.write(tmp_path / PLAN_FILE)
    server = subprocess.run(
        [sys.executable, "-c", SERVER], env=os.environ | {PLAN: str(tmp_path / PLAN_FILE)}, timeout=40, check=False
    )
    assert server.returncode == 1
    assert not plan.ended(), "it has ended without a word, as if it had been killed"


def test_a_process_of_somebody_else_lives() -> None:
    assert alive(1)
    assert identity(os.getpid()) == own_identity()
    assert own_identity() != identity(1)
