"""Resident memory of this process as Linux counts it: now, and at its highest."""

from __future__ import annotations

from pathlib import Path


def resident_bytes() -> int:
    """Return the resident memory now (VmRSS)."""
    return _status("VmRSS")


def peak_bytes() -> int:
    """Return the highest resident memory since the process began, or since `reset_peak` (VmHWM)."""
    return _status("VmHWM")


def reset_peak() -> None:
    """Forget earlier peaks: `peak_bytes` starts again at what is resident now."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name == key:
            return int(value.split()[0]) * 1024
    raise OSError(f"/proc/self/status has no line {key}: this benchmark needs Linux.")
