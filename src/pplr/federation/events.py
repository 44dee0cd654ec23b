"""What happens during a run, as it happens: for the log file, the terminal, and whoever else listens."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pplr.storage import append_line


@dataclass(frozen=True)
class Event:
    """One thing that happened.

    Attributes:
        name: what, for example "round_started", "client_trained", "checkpoint".
        round: in which round, or None outside of rounds.
        client: to which client, or None.
        data: figures; numbers, texts, and lists of them.
        transient: shown while it lasts and not written to the log (progress inside a client's training).
    """

    name: str
    round: int | None = None
    client: str | None = None
    data: dict[str, Any] = field(default_factory=dict)
    transient: bool = False


Observer = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Observe nothing."""


class EventLog:
    """Appends every event that is not transient to a file, one JSON object a line, with the time in unix seconds.

    Nothing is written before `open`: what happened until then is kept and written first.
    """

    def __init__(self, path: Path, meanwhile: Path | None = None) -> None:
        """Write to `path`, and until it is opened to `meanwhile`, for those who want to look."""
        self._path = path
        self._meanwhile = meanwhile
        self._waiting: list[str] | None = []

    def open(self) -> None:
        """Write what has happened so far, and from now on every event as it happens."""
        waiting, self._waiting = self._waiting or [], None
        for line in waiting:
            append_line(self._path, line)

    def __call__(self, event: Event) -> None:
        """Write the event, or keep it until the log is open."""
        if event.transient:
            return
        entry = {"event": event.name, "time": round(time.time(), 3), "round": event.round, "client": event.client}
        known = {key: value for key, value in entry.items() if value is not None}
        line = json.dumps(known | event.data | known)  # in this order, and nothing in the data takes its place
        if self._waiting is None:
            append_line(self._path, line)
            return
        self._waiting.append(line)
        if self._meanwhile is not None:
            append_line(self._meanwhile, line)


def several(observers: list[Observer]) -> Observer:
    """Return an observer that passes every event on to all of `observers`, in order."""

    def observe(event: Event) -> None:
        for observer in observers:
            observer(event)

    return observe
