"""What every benchmark writes: its figures, and where they were taken."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from pplr.config import Config

PACKAGES = ("pplr", "torch", "transformers", "peft", "accelerate", "numpy")


def write_result(path: Path, name: str, figures: dict[str, Any]) -> None:
    """Write `figures` and the circumstances as JSON to `path`, whole or not at all, and print the figures."""
    result = {"benchmark": name, **circumstances(), **figures}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)
    print(json.dumps(figures, indent=1))


def circumstances() -> dict[str, Any]:
    """Return date, commit, versions, processor, threads, and the load by other programs (mean of the last minute)."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _version(name)) is not None},
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2),
    }


def settings_of(config: Config) -> dict[str, Any]:
    """Return what decides a run's figures, but for its data, whose paths are those of a machine."""
    return config.model_dump(mode="json", include={"seed", "clients", "federation", "training", "strategy", "backbone"})


def summary(values: Sequence[float]) -> dict[str, float]:
    """Return median, smallest and largest of `values`."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return found.stdout.strip() if found.returncode == 0 else None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
