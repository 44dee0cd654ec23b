"""What several runs in one process share, so that it is loaded once: the data, and the backbone with its model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


class Shelf:
    """Keeps what was loaded last, one thing of each kind: a process holds one language model at a time."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[str, Any]] = {}

    def get(self, kind: str, key: str, make: Callable[[], T]) -> T:
        """Return the thing of this kind with this key; it is made where another one lies there, which goes first."""
        if kind not in self._kept or self._kept[kind][0] != key:
            self._kept.pop(kind, None)
            self._kept[kind] = (key, make())
        kept: T = self._kept[kind][1]
        return kept
