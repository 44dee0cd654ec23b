"""Several processes on the same cores."""

from __future__ import annotations

import os

SHARED_CORES = {"OMP_WAIT_POLICY": "PASSIVE"}
"""Environment of processes that share a machine's cores: threads that wait for each other sleep instead of spin.

A thread that spins keeps its core from the processes it waits for: where a server and its clients share a machine, that
costs a fifth of their speed (benchmarks/trunk_training.py). A process alone is some percent faster with threads that spin.
"""


def share_cores() -> None:
    """Set SHARED_CORES for this process and its children; before torch is loaded, which is when OpenMP reads it."""
    for name, value in SHARED_CORES.items():
        os.environ.setdefault(name, value)
