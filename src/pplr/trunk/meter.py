"""Bytes on the wire, by direction and kind of frame."""

from __future__ import annotations

from collections import Counter
from threading import Lock


class Meter:
    """Counts frames and their bytes; safe for threads. Sizes are those of frames, without TLS and HTTP/2 around them."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._bytes: dict[str, Counter[str]] = {"up": Counter(), "down": Counter()}
        self._frames: dict[str, Counter[str]] = {"up": Counter(), "down": Counter()}

    def count(self, direction: str, kind: str, size: int) -> None:
        """Count a frame that went "up" to the server or came "down" from it."""
        with self._lock:
            self._bytes[direction][str(kind)] += size
            self._frames[direction][str(kind)] += 1

    def totals(self) -> dict[str, dict[str, dict[str, int]]]:
        """Return {"up": {kind: {"frames": n, "bytes": n}}, "down": ...}."""
        with self._lock:
            return {
                direction: {
                    kind: {"frames": self._frames[direction][kind], "bytes": size}
                    for kind, size in sorted(counts.items())
                }
                for direction, counts in self._bytes.items()
            }
