"""A round over the network beside the same messages by bare Flower: five silos, rows of 2 MB, no training.

    python benchmarks/flower_round.py [--rounds 11] [--numbers 500000]

One SuperLink and five SuperNodes on loopback, each answered by a process as `pplr silo run` has it. Both apps run one after
the other on them: bare Flower sends each node a row, takes one back, averages, and sends it again to be measured; pplr's
coordinator does the same with parcels, digests, admission, comparison, mixing, audit log and a checkpoint after each round.
The first round of each is left out: processes start then.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import tempfile
import time
from contextlib import ExitStack
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from pplr.address import Address
from pplr.federation.messages import Report, Update
from pplr.silos import codec
from pplr.silos.announcement import Announcement
from pplr.silos.parcel import Parcel
from pplr.silos.processes import (
    BIN,
    Security,
    environment,
    free_port,
    started,
    superlink_command,
    supernode_command,
    wait_until_reachable,
)
from pplr.silos.resident import SOCKET, serve
from result_file import write_result

HERE = Path(__file__).parent
APPS = {
    "bare": ("flower_round_bare:app", "flower_round_bare:client"),
    "ours": ("flower_round_ours:app", "pplr.silos.client_app:app"),
}
LONGEST_SECONDS = 600.0


def main(arguments: list[str] | None = None) -> None:
    """Run both, and compare medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--silos", type=int, default=5)
    parser.add_argument("--numbers", type=int, default=500_000, help="of a row; four bytes each")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument(
        "--large", type=int, default=16_000_000, help="numbers of a row in a second comparison, of two silos; 0: none"
    )
    parser.add_argument("--output", type=Path, default=HERE / "results" / "flower_round.json")
    options = parser.parse_args(arguments)
    figures = compared(options.silos, options.numbers, options.rounds) | {"target": 1.3}
    if options.large:
        figures["large"] = compared(2, options.large, 3)
    write_result(options.output, "flower_round", figures)


def compared(silos: int, numbers: int, rounds: int) -> dict[str, Any]:
    """Return the seconds of the rounds of both apps, and the ratio of their medians without the first rounds."""
    with tempfile.TemporaryDirectory(prefix="pplr-round-") as name:
        seconds = measured(Path(name), silos, numbers, rounds)
    medians = {which: statistics.median(values[1:]) for which, values in seconds.items()}
    return {
        "silos": silos, "row_bytes": 4 * numbers, "seconds": seconds, "medians": medians,
        "ratio": medians["ours"] / medians["bare"],
    }  # fmt: skip


def measured(work: Path, silos: int, numbers: int, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each round of both apps."""
    address, plain = Address("127.0.0.1", free_port()), Security(None)
    plan = {"silos": silos, "numbers": numbers, "rounds": rounds, "folder": str(work), "output": str(work / "seconds")}
    (work / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    with ExitStack() as stack:
        env = environment(work / "flower", FLOWER_ROUND_PLAN=str(work / "plan.json"))
        link = stack.enter_context(started(superlink_command(address, plain), work / "link.log", env))
        wait_until_reachable(address, link, work / "link.log")
        for index in range(silos):
            socket, home = work / f"s{index}", work / f"node{index}"
            silo = get_context("spawn").Process(target=live, args=(socket, f"silo-{index}", numbers), daemon=True)
            silo.start()
            stack.callback(silo.kill)
            command = supernode_command(f"silo-{index}", address, plain, home, free_port())
            stack.enter_context(started(command, work / f"node{index}.log", environment(home, **{SOCKET: str(socket)})))
        return {which: _run(which, work, address) for which in APPS}


def live(socket: Path, name: str, numbers: int) -> None:
    """Be a silo that adds one to each row, and is content with it."""

    def answer(asked: Parcel) -> Parcel:
        if asked.kind == "announce":
            said = Announcement(
                name=name, version="0", examples=10, users=5, items=5, events=20, catalogue="c", model="m", weights="w",
                layout="l", parameters=numbers, shared=numbers, initial="i", select_by="loss", split="s", settings={},
                device="cpu", notes=[],
            )  # fmt: skip
            return Parcel("announcement", said.model_dump())
        if asked.kind == "train":
            task, _ = codec.train_task(asked)
            return codec.update_parcel(Update(name, task.round, task.row + 1, 1.0, 10, 10, {}))
        measured_task, _ = codec.evaluate_task(asked)
        return codec.report_parcel(Report(name, measured_task.part, 1.0, 5))

    serve(socket, answer)


def _run(which: str, work: Path, address: Address) -> list[float]:
    """Have the SuperLink run one app, and return the seconds of its rounds."""
    app, home = work / f"app-{which}", work / "flower"
    app.mkdir()
    home.mkdir(exist_ok=True)
    shutil.copy(HERE / f"flower_round_{which}.py", app)
    server, client = APPS[which]
    (app / "pyproject.toml").write_text(
        f'[project]\nname = "round-{which}"\nversion = "1.0.0"\ndescription = ""\nlicense = "Apache-2.0"\n'
        'dependencies = []\n\n[tool.flwr.app]\npublisher = "pplr"\n\n[tool.flwr.app.components]\n'
        f'serverapp = "{server}"\nclientapp = "{client}"\n\n[tool.flwr.app.config]\n',
        encoding="utf-8",
    )
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "here"\n\n[superlink.here]\naddress = "{address}"\ninsecure = true\n', encoding="utf-8"
    )
    output = work / "seconds"
    output.unlink(missing_ok=True)
    done = subprocess.run(
        [str(BIN / "flwr"), "run", str(app), "here"], env=environment(home), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"flwr run {which} failed: {done.stdout}{done.stderr}")
    deadline = time.monotonic() + LONGEST_SECONDS
    while not output.is_file():
        if time.monotonic() > deadline:
            raise SystemExit(f"{which} did not end; the SuperLink says: {(work / 'link.log').read_text()[-3_000:]}")
        time.sleep(0.5)
    time.sleep(0.5)
    return list(json.loads(output.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
