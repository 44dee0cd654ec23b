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


def floor(curve: list[dict[str, Any]], begins: float) -> dict[str, float]:
    """Return the least memory in the first and in the last fifth of a curve's points from second `begins` on.

    It is what is held while nothing is computed.
    """
    judged = [point["megabytes"] for point in curve if point["second"] >= begins]
    fifth = max(1, len(judged) // 5)
    return {"first": min(judged[:fifth], default=0.0), "last": min(judged[-fifth:], default=0.0)}


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

        The growth is that of a straight line through all samples (least squares), as a share of their median. The floor
        is that of the thinned curve (see `floor`).
        """
        seconds, resident, sessions = (np.array(column, np.float64) for column in zip(*self._points, strict=True))
        judged = seconds >= min(warm_up, seconds[-1] / 2)
        slope, _ = np.polyfit(seconds[judged], resident[judged], 1)
        median, begins = float(np.median(resident[judged])), float(seconds[judged][0])
        curve = [
            {"second": round(at), "megabytes": round(size / 1e6, 1), "sessions": int(count)}
            for at, size, count in self._points[:: -(-len(self._points) // POINTS)]
        ]
        return {
            "samples": len(seconds),
            "judged_from_second": begins,
            "median_bytes": median,
            "highest_bytes": float(resident.max()),
            "bytes_per_minute": float(slope * 60),
            "growth_share": float(slope * np.ptp(seconds[judged]) / median),
            "floor_megabytes": floor(curve, begins),
            "sessions": {"median": float(np.median(sessions)), "most": float(sessions.max())},
            "curve": curve,
        }

    def _sample(self) -> None:
        while not self._ended.is_set():
            self._look()
            self._ended.wait(EVERY)
        self._look()  # a block of less than a second has two samples too

    def _look(self) -> None:
        sessions = int(self._server.figures()["pplr_trunk_sessions"])
        self._points.append((time.monotonic() - self._begun, self._server.resident_bytes(), sessions))
