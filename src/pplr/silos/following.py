"""A coordinator's events, followed as the process writes them in which Flower runs its ServerApp."""

from __future__ import annotations

import json
from pathlib import Path

from pplr.federation.events import Event, Observer


class Following:
    """Passes on each event once: those until all silos have come, and then those of the run folder's log."""

    def __init__(self, events: Path, meeting: Path, observer: Observer, *, resumed: bool) -> None:
        """Follow the log `events`, which begins with what `meeting` has; of a run that is resumed, what comes newly."""
        self._events = events
        self._meeting = meeting
        self._observe = observer
        self._met = 0
        self._start = events.stat().st_size if resumed and events.is_file() else 0
        self._old = None if resumed else _first_line(events)
        self._shown: int | None = None

    def look(self) -> None:
        """Pass on what is new."""
        self._met = self._pass_on(self._meeting, self._met)
        if self._shown is None and self._begun():
            self._shown = self._start + self._met
        if self._shown is not None:
            self._shown = self._pass_on(self._events, self._shown)

    def _begun(self) -> bool:
        """Return whether the log is that of this run: the log of one that is overwritten is there until then."""
        first = _first_line(self._events)
        return first is not None and first != self._old and self._events.stat().st_size > self._start

    def _pass_on(self, path: Path, start: int) -> int:
        """Pass on whole lines from byte `start`, and return where they end."""
        if not path.is_file():
            return start
        with path.open("rb") as file:
            file.seek(start)
            whole, newline, _ = file.read().rpartition(b"\n")
        for line in whole.splitlines():
            self._observe(parsed(line))
        return start + len(whole) + len(newline)


def parsed(line: bytes) -> Event:
    """Return the event in a line of a log."""
    entry = json.loads(line)
    name, _ = entry.pop("event"), entry.pop("time", None)
    return Event(name, entry.get("round"), entry.get("client"), entry)


def _first_line(path: Path) -> bytes | None:
    """Return the first line of a file, or None where there is none that is whole."""
    try:
        with path.open("rb") as file:
            line = file.readline()
    except FileNotFoundError:
        return None
    return line if line.endswith(b"\n") else None
