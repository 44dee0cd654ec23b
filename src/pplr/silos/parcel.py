"""What travels between coordinator and silos: a kind, a few JSON fields, and at most one row of float32 numbers.

Needs NumPy only: the process that Flower starts for each message passes parcels on and loads nothing heavy.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pplr.errors import RunError

Floats = NDArray[np.float32]
_LENGTH = 4
"""Bytes of the number in front of a parcel that says how long its head is."""
LONGEST_REASON = 2_000
"""Characters of what a silo says that are kept."""
LARGEST_HEAD = 16 * 2**20
"""Bytes; the longest head is that of an announcement, a few kilobytes. What is longer is cut, and no JSON."""


@dataclass(frozen=True)
class Parcel:
    """One message.

    Attributes:
        kind: what it is, such as "train" or "update".
        fields: JSON values by name.
        row: [numbers] float32, or None.
    """

    kind: str
    fields: Mapping[str, Any]
    row: Floats | None = None

    @property
    def head(self) -> bytes:
        """Kind and fields as JSON, the same for equal parcels."""
        whole = {"kind": self.kind, "fields": self.fields, "row": self.row is not None}
        return json.dumps(whole, sort_keys=True, allow_nan=False).encode()

    @property
    def size(self) -> int:
        """Bytes of head and row."""
        return len(self.head) + (0 if self.row is None else self.row.nbytes)

    @property
    def digest(self) -> str:
        """SHA-256 of head and row."""
        return digest(self.head, b"" if self.row is None else _little(self.row).tobytes())

    def to_bytes(self) -> bytes:
        """Return the parcel as bytes: length of the head, head, row."""
        head = self.head
        return len(head).to_bytes(_LENGTH, "little") + head + (b"" if self.row is None else _little(self.row).tobytes())


def digest(head: bytes, row: bytes) -> str:
    """Return SHA-256 of the bytes of a head and a row."""
    found = hashlib.sha256(head)
    found.update(row)
    return found.hexdigest()


def from_bytes(content: bytes) -> Parcel:
    """Return the parcel in `content`.

    Raises:
        RunError: it holds none.
    """
    end = _LENGTH + int.from_bytes(content[:_LENGTH], "little")
    return opened(content[_LENGTH:end], content[end:])


def opened(head: bytes, row: bytes | None) -> Parcel:
    """Return the parcel of a head and the bytes of a row.

    Raises:
        RunError: they make none.
    """
    try:
        found = json.loads(head[:LARGEST_HEAD], parse_float=_finite, parse_constant=_finite)
        json.dumps(found, ensure_ascii=False).encode()  # half a character, which no file can hold, is an error here
        kind, fields, has_row = found["kind"], found["fields"], found["row"]
        numbers = None if row is None else np.frombuffer(row, dtype="<f4")
    except (ValueError, TypeError, KeyError, RecursionError) as problem:
        raise RunError(f"A message cannot be read: {problem}.") from problem
    if not (isinstance(kind, str) and isinstance(fields, dict) and isinstance(has_row, bool)):
        raise RunError("A message cannot be read: its head says something else than kind, fields and row.")
    if numbers is None if has_row else numbers is not None and len(numbers):
        raise RunError("A message cannot be read: its row is missing, or its head does not name it.")
    return Parcel(kind, fields, numbers if has_row else None)


def plain(text: str) -> str:
    """Return a silo's words as they may be shown and written: no control characters, of which terminals obey some."""
    return "".join(letter if letter.isprintable() else " " for letter in text[:LONGEST_REASON])


def failure(reason: str) -> Parcel:
    """Return the answer of a silo that cannot do what it was asked."""
    return Parcel("failure", {"reason": reason})


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is no finite number")
    return value


def _little(row: Floats) -> NDArray[np.float32]:
    return np.ascontiguousarray(row, dtype="<f4")
