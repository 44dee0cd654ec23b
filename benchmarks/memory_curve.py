"""The resident memory of a server, sampled every second, and whether it grows."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np

from trunk_server import Server

EVERY = 1.0
POINTS = 120
"""Points of a curve in a result file, at most."""


class MemoryCurve:
    """Samples memory and open sessions of a server inside its block."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._points: list[tuple[float, int, int]] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> MemoryCurve:
        self._begun = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def figures(self, warm_up: float) -> dict[str, Any]:
        """Return how much memory grows behind the first `warm_up` seconds, and the curve thinned out.

        The growth is that of a straight line through all points (least squares), as a share of their median. The floor
        is the least that is held in the first fifth of that time, and in the last: what is left when nothing is computed.
        """
        seconds, resident, sessions = (np.array(column, np.float64) for column in zip(*self._points, strict=True))
        judged = seconds >= min(warm_up, seconds[-1] / 2)
        slope, _ = np.polyfit(seconds[judged], resident[judged], 1)
        median, fifth = float(np.median(resident[judged])), max(1, int(judged.sum()) // 5)
        first, last = float(resident[judged][:fifth].min()), float(resident[judged][-fifth:].min())
        return {
            "samples": len(seconds),
            "judged_from_second": float(seconds[judged][0]),
            "median_bytes": median,
            "highest_bytes": float(resident.max()),
            "bytes_per_minute": float(slope * 60),
            "growth_share": float(slope * np.ptp(seconds[judged]) / median),
            "floor_bytes": {"first": first, "last": last},
            "floor_growth_share": last / first - 1,
            "sessions": {"median": float(np.median(sessions)), "most": float(sessions.max())},
            "curve": [
                {"second": round(at), "megabytes": round(size / 1e6, 1), "sessions": int(count)}
                for at, size, count in self._points[:: -(-len(self._points) // POINTS)]
            ],
        }

    def _sample(self) -> None:
        while not self._ended.is_set():
            sessions = int(self._server.figures()["pplr_trunk_sessions"])
            self._points.append((time.monotonic() - self._begun, self._server.resident_bytes(), sessions))
            self._ended.wait(EVERY)
