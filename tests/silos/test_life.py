"""A process that is bound to another one ends with it, whatever it is doing."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from pplr.run_folder import held
from pplr.silos.life import alive

BOUND = """
import sys, threading
from pathlib import Path
from pplr.run_folder import held
from pplr.silos.life import end_with

end_with(int(sys.argv[1]))
with held(Path(sys.argv[2])):
    print("held", flush=True)
    threading.Event().wait()
"""


def bound_to(other: subprocess.Popen[bytes], folder: Path) -> subprocess.Popen[str]:
    """Start a process that holds a run folder and waits for ever, bound to another one."""
    return subprocess.Popen(
        [sys.executable, "-c", BOUND, str(other.pid), str(folder)], stdout=subprocess.PIPE, text=True
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
