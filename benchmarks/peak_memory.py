"""Resident memory of a process as Linux counts it: now, and at its highest."""

from __future__ import annotations

from pathlib import Path


def resident_bytes(process: int | None = None) -> int:
    """Return the resident memory (VmRSS) of a process now; without its id, of this one."""
    return _status("VmRSS", "self" if process is None else str(process))


def peak_bytes() -> int:
    """Return the highest resident memory since the process began, or since `reset_peak` (VmHWM)."""
    return _status("VmHWM")


def reset_peak() -> None:
    """Forget earlier peaks: `peak_bytes` starts again at what is resident now."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _status(key: str, process: str = "self") -> int:
    path = Path("/proc") / process / "status"
    for line in path.read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name == key:
            return int(value.split()[0]) * 1024
    raise OSError(f"{path} has no line {key}: this benchmark needs Linux, and that the process runs.")
