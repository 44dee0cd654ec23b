"""A whole federation on one machine, over the processes that a network would have: for tests, trials and many GPUs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

from pplr.address import Address
from pplr.config import Config, config_toml
from pplr.cores import SHARED_CORES
from pplr.data import assign_clients, load_dataset
from pplr.errors import ConfigError, RunError
from pplr.federation.events import Observer, ignore
from pplr.runner import RunResult
from pplr.silos.operate import run_coordinator
from pplr.silos.plan import work_folder
from pplr.silos.processes import Security, environment, free_port, started
from pplr.storage import make_folder, write_text

Engine = Literal["ray", "flower"]


def run_on_one_machine(
    config: Config,
    engine: Engine,
    out: Path | None = None,
    *,
    resume: bool = False,
    overwrite: bool = False,
    observer: Observer = ignore,
) -> RunResult:
    """Run a configuration with its clients as silos: each a process ("flower"), or all on Ray's workers ("ray").

    Raises:
        PplrError: something is wrong; the text says what to do.
    """
    if engine == "ray" and config.placement.kind == "split" and config.placement.server is not None:
        raise ConfigError(
            "On Ray any worker answers for any silo, and the trunk's server expects each silo at one place. Use --engine "
            "flower, or leave placement.server out."
        )
    folder = (out or Path("runs") / config.name).resolve()
    names = assign_clients(load_dataset(config.data, Path()), config.clients, config.seed).names
    work = work_folder(folder)
    make_folder(work)
    write_text(work / "silos.toml", config_toml(config))
    address, plain = Address("127.0.0.1", free_port()), Security(None)
    simulation = work / "simulation.json" if engine == "ray" else None
    if simulation is not None:
        plan = {"config": str(work / "silos.toml"), "folder": str(work / "silos"), "silos": list(names)}
        write_text(simulation, json.dumps(plan))
    with ExitStack() as stack:
        look_after = _silos(stack, names, work, address) if simulation is None else lambda: None
        return run_coordinator(
            config,
            folder,
            address,
            plain,
            silos=names,
            resume=resume,
            overwrite=overwrite,
            simulation=simulation,
            look_after=look_after,
            observer=observer,
        )


def _silos(stack: ExitStack, names: tuple[str, ...], work: Path, address: Address) -> Callable[[], None]:
    """Start a process for each silo, and return what says whether one has ended."""
    processes: dict[str, tuple[subprocess.Popen[bytes], Path]] = {}
    for name in names:
        state = work / "silos" / name
        make_folder(state)
        words: list[str | Path] = [
            sys.executable,
            "-m",
            "pplr",
            "silo",
            "run",
            work / "silos.toml",
            "--name",
            name,
            "--state",
            state,
        ]
        words += ["--coordinator", str(address), "--insecure"]
        log = state / "silo.log"
        log.unlink(missing_ok=True)
        processes[name] = stack.enter_context(started(words, log, environment(state / "flower", **SHARED_CORES))), log

    def look_after() -> None:
        for name, (process, log) in processes.items():
            if process.poll() is not None:
                raise RunError(f"Silo {name} has ended: {_last_words(log)}")

    return look_after


def _last_words(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace").strip()[-1_000:] or f"its log {log} is empty."
