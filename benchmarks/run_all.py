"""Runs the benchmarks one after another, each in a process of its own, and writes docs/benchmarks.md.

    python benchmarks/run_all.py                          # on the demo data; two hours on two cores
    python benchmarks/run_all.py --games FOLDER           # on amazon-games (interactions.csv.gz, items.csv.gz)
    python benchmarks/run_all.py --games FOLDER --slow    # and the audit of hidden states, and the run at the paper's
                                                          # scale: two to three hours more
    python benchmarks/run_all.py --only memory aggregation

The committed results are those on amazon-games. A benchmark that fails leaves its old result, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
SLOW = "paper_scale"


def main() -> int:
    """Run what is asked for, write the page, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--games", type=Path, help="folder of amazon-games; absent: the demo data")
    parser.add_argument("--slow", action="store_true", help=f"{SLOW} too; needs --games")
    parser.add_argument("--only", nargs="+", help="names of the benchmarks to run; absent: all")
    parser.add_argument("--work", type=Path, default=Path("runs"), help="folder for run folders and checkpoints")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder for the result files")
    options = parser.parse_args()
    commands = planned(options.games, options.work, slow=options.slow)
    unknown = sorted(set(options.only or ()) - set(commands))
    if unknown:
        parser.error(f"no benchmark is called {', '.join(unknown)}; there are {', '.join(commands)}")
    failed = [
        name
        for name, arguments in commands.items()
        if options.only is None or name in options.only
        if not succeeds(name, [*arguments, "--output", str(options.results / f"{name}.json")])
    ]
    page = subprocess.run([sys.executable, HERE / "report.py", "--results", options.results], check=False)
    if failed:
        print(f"Failed: {', '.join(failed)}.", file=sys.stderr)
    return 1 if failed or page.returncode else 0


def planned(games: Path | None, work: Path, *, slow: bool) -> dict[str, list[str]]:
    """Return the arguments of each benchmark by its name, in the order they are run in."""
    files = [] if games is None else ["--events", f"{games}/interactions.csv.gz", "--items", f"{games}/items.csv.gz"]
    data = files and [*files, "--split", "global-time"]
    commands = {
        "aggregation": [],
        "training_throughput": data,
        "beam_search": files,
        "memory": data,
        "engine_overhead": [],
        "plan_measured": data,
        "sequence_speed": [],
        "precision": ["--backbone", "sequence", "encoder", "generative"],
        "item_vectors": [],
        "trunk_training": data,
        "trunk_soak": [],
        "trunk_fuzz": [],
        "catalogue_vectors": [],
        "flower_round": [],
        "many_silos": [],
        "ray_silos": ["--work", str(work / "ray-silos")],
        "fuzzed_messages": [],
        "killed_processes": [],
    }
    if slow:
        commands["hidden_states"] = []
        commands["codec_quality"] = ["--work", str(work / "codec-quality")]
        commands["split_costs"] = ["--work", str(work / "split-costs")]
    if slow and games is not None:
        commands[SLOW] = ["--data", str(games), "--work", str(work / SLOW)]
    return commands


def succeeds(name: str, arguments: list[str]) -> bool:
    """Run one benchmark and return whether it ended well."""
    print(f"{name} ...", flush=True)
    started = time.perf_counter()
    finished = subprocess.run([sys.executable, HERE / f"{name}.py", *arguments], stdout=subprocess.DEVNULL, check=False)
    ended = "done" if finished.returncode == 0 else f"failed with exit code {finished.returncode}"
    print(f"{name} {ended} after {time.perf_counter() - started:.0f} s", flush=True)
    return finished.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
