"""The audit log of a run: what was sent, admitted, refused and mixed in each round, every line chained to the one before.

A line is a JSON object with its number and the SHA-256 of the line before it; the head, kept in a file of its own and in
every checkpoint, is the number of lines and the SHA-256 of the last. So no byte of a line can change, and no line can go,
come or move, without the chain or the head saying so. Who can write to the folder can write all of it anew: a head that
was noted elsewhere tells that too.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pplr.errors import RunError
from pplr.federation.history import kept_matrix
from pplr.storage import append_durably, cut, write_text

AUDIT_LOG, AUDIT_HEAD = "audit.jsonl", "audit.head.json"
NOTHING = "0" * 64
"""What the first line names as the digest of the line before it."""


@dataclass(frozen=True)
class Head:
    """The end of a log.

    Attributes:
        entries: how many there are.
        digest: SHA-256 of the last line, without its newline.
    """

    entries: int = 0
    digest: str = NOTHING

    @classmethod
    def read(cls, folder: Path) -> Head:
        """Return the head that a run has left in its folder.

        Raises:
            RunError: there is none, or it is damaged.
        """
        path = folder / AUDIT_HEAD
        try:
            return cls.parse(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError) as problem:
            raise RunError(
                f"{path} is missing or damaged ({problem}), so nobody can tell whether the end of the audit log is there."
            ) from problem

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Head:
        """Return the head that `asdict` made these values of."""
        return cls(int(values["entries"]), str(values["digest"]))


class AuditLog:
    """Writes the log in a run folder, line by line, each on the disk before the run goes on.

    Attributes:
        head: the end of the log.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.head = Head()

    def open(self, after: int, known: Head | None, facts: Mapping[str, Any]) -> None:
        """Begin the log of a run with `facts`, or go on with the one that is there, after round `after`.

        `known` is the head that the newest checkpoint holds. What follows it in the log is of rounds that were interrupted:
        it stays, and the entry "resumed" tells that they are repeated. A line that was not finished goes.

        Raises:
            RunError: the log has been changed.
            StorageError: the disk is full or not writable.
        """
        if not (self._folder / AUDIT_LOG).exists() and known is None:
            self.append("begun", facts)
            return
        self.go_on(known)
        self.append("resumed", {"after_round": after, **facts})

    def go_on(self, known: Head | None) -> None:
        """Take up a log that is there, as it was left.

        Raises:
            RunError: the log has been changed.
            StorageError: the disk is not writable.
        """
        path = self._folder / AUDIT_LOG
        whole, _, unfinished = _content(path).rpartition(b"\n")
        lines = whole.split(b"\n") if whole else []
        heads = chained(lines)
        vouched = Head.read(self._folder) if (self._folder / AUDIT_HEAD).exists() else Head()
        for head in (known, vouched):
            if head is not None:
                check_contains(heads, head)
        if unfinished:
            cut(path, len(whole) + (1 if whole else 0))
        self.head = heads[-1]

    def append(self, kind: str, data: Mapping[str, Any]) -> None:
        """Write one entry, and the new head.

        Raises:
            StorageError: the disk is full or not writable.
        """
        number = self.head.entries + 1
        entry = {"number": number, "previous": self.head.digest, "time": round(time.time(), 3), "kind": kind, **data}
        line = json.dumps(entry, allow_nan=False)
        append_durably(self._folder / AUDIT_LOG, line)
        self.head = Head(number, hashlib.sha256(line.encode()).hexdigest())
        write_text(self._folder / AUDIT_HEAD, json.dumps(asdict(self.head)))


def matrix_entry(matrix: NDArray[np.float64] | None) -> dict[str, Any] | None:
    """Return a mixing matrix as it stands in the log: of many clients its digest alone; None where there is none."""
    if matrix is None:
        return None
    numbers = np.ascontiguousarray(matrix, dtype="<f8")
    found: dict[str, Any] = {"sha256": hashlib.sha256(numbers.tobytes()).hexdigest()}
    kept = kept_matrix(matrix)
    return found if kept is None else found | {"matrix": kept}


@dataclass(frozen=True)
class Verified:
    """What a log that is as it was written tells.

    Attributes:
        head: its end.
        rounds: the rounds that count, in order.
        repeated: rounds that were interrupted and done again, as often as they were.
    """

    head: Head
    rounds: tuple[int, ...]
    repeated: tuple[int, ...]


def verify(folder: Path, also: Mapping[str, Head] | None = None, noted: str | None = None) -> Verified:
    """Check the log in a run folder against its chain and its head.

    `also` are heads that are known from elsewhere, by words for where; `noted` is the digest of an entry that must be there.

    Raises:
        RunError: something was changed; the text names the entry.
    """
    whole, newline, unfinished = _content(folder / AUDIT_LOG).rpartition(b"\n")
    lines = whole.split(b"\n") if newline else []
    heads = chained(lines)
    head = Head.read(folder)
    if unfinished:
        raise RunError(f"Entry {len(lines) + 1} of the audit log is cut off: its line has no end.")
    if len(lines) < head.entries:
        missing = (
            f"entries {len(lines) + 1} to {head.entries} are"
            if head.entries - len(lines) > 1
            else f"entry {head.entries} is"
        )
        raise RunError(
            f"The audit log ends with entry {len(lines)}, and the run had written {head.entries}: {missing} missing."
        )
    if len(lines) > head.entries:
        raise RunError(
            f"Entry {head.entries + 1} of the audit log comes after the last one that the run has vouched for, "
            f"{head.entries}: it was added, or the run was killed as it wrote it (--resume settles that)."
        )
    check_contains(heads, head)
    for where, known in (also or {}).items():
        check_contains(heads, known, where)
    if noted is not None and noted.strip().lower() not in {one.digest for one in heads[1:]}:
        raise RunError(
            f"No entry of the audit log has the digest {noted}: the log was written anew, or it is another run's."
        )
    return Verified(head, *_rounds(lines))


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as problem:
        raise RunError(
            f"The audit log {path} cannot be read: {problem.strerror}. A run writes it from its first round on."
        ) from problem


def chained(lines: list[bytes]) -> list[Head]:
    """Return the head after 0, 1, 2, ... entries.

    Raises:
        RunError: the chain is broken; the text names the entry.
    """
    heads = [Head()]
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
            found, previous = entry["number"], entry["previous"]
        except (ValueError, KeyError, TypeError, RecursionError) as problem:
            raise RunError(f"Entry {number} of the audit log was changed: it cannot be read ({problem}).") from problem
        if found != number:
            raise RunError(
                f"Entry {number} of the audit log is missing, was changed or was moved: in its place is entry {found!r}."
            )
        if previous != heads[-1].digest:
            before = "the beginning" if number == 1 else f"entry {number - 1}"
            raise RunError(
                f"Entry {number} of the audit log does not follow from {before}: one of the two was changed after it was "
                "written."
            )
        heads.append(Head(number, hashlib.sha256(line).hexdigest()))
    return heads


def check_contains(heads: list[Head], known: Head, where: str = "the run's own head") -> None:
    """Refuse a log in which a known head is not.

    Raises:
        RunError: naming the entry.
    """
    if not 0 <= known.entries < len(heads):
        raise RunError(f"Entry {known.entries} of the audit log, which {where} names, is missing.")
    if heads[known.entries] != known:
        raise RunError(
            f"Entry {known.entries} of the audit log was changed: its digest is {heads[known.entries].digest}, and "
            f"{where} has {known.digest}."
        )


def _rounds(lines: list[bytes]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the rounds that count, and those that were done again."""
    rounds: list[int] = []
    repeated: list[int] = []
    for line in lines:
        entry = json.loads(line)
        if entry.get("kind") == "resumed":
            repeated += [number for number in rounds if number > entry["after_round"]]
            rounds = [number for number in rounds if number <= entry["after_round"]]
        elif entry.get("kind") == "round":
            rounds.append(entry["round"])
    return tuple(rounds), tuple(repeated)
