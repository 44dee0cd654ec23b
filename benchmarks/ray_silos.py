"""Two hundred silos on Ray's workers, with tiny training: does it end in time, and does memory stay flat?

    python benchmarks/ray_silos.py --work FOLDER [--silos 200] [--rounds 20]

`pplr run --engine ray` on the demo's data, dealt to the silos at random, with the backbone `sequence`: every task is a
message of Flower to a worker that answers for whichever silo it is for. Memory is that of all processes that the run has
started, as resident pages, so that pages which several share count several times; it is looked at after each round.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

from pplr.config import Config, parse_config
from pplr.demo import demo_config
from pplr.federation.events import Event
from pplr.silos.one_machine import run_on_one_machine
from result_file import write_result

HERE = Path(__file__).parent
PAGE = os.sysconf("SC_PAGE_SIZE")


def main(arguments: list[str] | None = None) -> None:
    """Run, and write what was seen after each round."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for the run")
    parser.add_argument("--silos", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--examples", type=int, default=2, help="training examples per silo")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "ray_silos.json")
    options = parser.parse_args(arguments)
    config = configuration(options.silos, options.rounds, options.examples)
    rounds: list[dict[str, float]] = []
    started = time.perf_counter()

    def observe(event: Event) -> None:
        if event.name == "round_finished":
            seen = {"seconds": time.perf_counter() - started, "resident_bytes": float(descendants_bytes(os.getpid()))}
            rounds.append(seen)
            write_result(options.output, "ray_silos", figures(options, rounds, None))

    result = run_on_one_machine(config, "ray", options.work / "ray-silos", overwrite=True, observer=observe)
    whole = time.perf_counter() - started
    measured = sum(one["users"] > 0 for one in result.metrics["clients"].values())
    write_result(options.output, "ray_silos", figures(options, rounds, whole) | {"measured_silos": measured})


def configuration(silos: int, rounds: int, examples: int) -> Config:
    """Return the demo's configuration with many silos and little to do."""
    values = demo_config(fusion=False).model_dump(mode="json", exclude_none=True)
    values["threads"] = 1
    values["clients"] = {"kind": "random", "count": silos}
    values["federation"] = {"rounds": rounds, "patience": rounds}
    values["training"] |= {"max_examples": examples * silos, "epochs": 1}
    values["evaluation"] |= {"baselines": False, "examples": 0, "max_users": 2}
    return parse_config(values, Path())


def figures(options: argparse.Namespace, rounds: list[dict[str, float]], whole: float | None) -> dict[str, Any]:
    """Return what is known so far; growth is from the second round on, when all workers are there."""
    later = rounds[1:] or rounds
    return {
        "silos": options.silos,
        "wanted_rounds": options.rounds,
        "examples": options.examples,
        "rounds": rounds,
        "whole_seconds": whole,
        "growth_bytes": later[-1]["resident_bytes"] - later[0]["resident_bytes"],
        "target_seconds": 1200,
    }


def descendants_bytes(process: int) -> int:
    """Return the resident memory of all processes below one."""
    parents, resident = {}, {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            after = (path / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            resident[int(path.name)] = int((path / "statm").read_text(encoding="ascii").split()[1]) * PAGE
            parents[int(path.name)] = int(after[1])
        except (OSError, IndexError):  # it has just ended
            continue
    below, new = {process}, {process}
    while new:
        new = {child for child, parent in parents.items() if parent in new} - below
        below |= new
    return sum(resident.get(one, 0) for one in below - {process})


if __name__ == "__main__":
    main()
