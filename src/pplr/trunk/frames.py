"""One frame of the wire: bytes in safetensors format, whose header also says what the frame is (docs/wire.md).

What arrives is not trusted. The header is read here, field by field, before any tensor is made: sizes, types, names and
offsets must fit each other and the limits, or the frame is refused.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NoReturn

import torch
from safetensors.torch import save
from torch import Tensor

from pplr.errors import RunError

VERSION = "2"
"""Of the wire. Another version is refused in the first frame of a session."""

HEADER_BYTES = 64 * 1024
TENSORS = 8
FRAME_BYTES = 64 * 2**20

_NAME = re.compile(r"[a-z]{1,16}(\.[a-z]{1,16})?")
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I8": torch.int8,
    "U8": torch.uint8,
}


class WireError(RunError):
    """What arrived is not what the wire allows."""


class Kind(StrEnum):
    """What a frame is. Requests travel to the server, answers from it."""

    HELLO = "hello"
    START = "start"
    FORWARD = "forward"
    BACKWARD = "backward"
    STEP = "step"
    FINISH = "finish"
    KEEP = "keep"
    READ = "read"
    SHIFT = "shift"
    SPREAD = "spread"
    CLOSE = "close"
    BEGIN = "begin"
    WITHOUT = "without"
    GRAM = "gram"
    MIX = "mix"
    SAVE = "save"
    RESTORE = "restore"
    WELCOME = "welcome"
    STATES = "states"
    GRADIENT = "gradient"
    MATRIX = "matrix"
    DONE = "done"


@dataclass(frozen=True)
class Frame:
    """What travels at once.

    Attributes:
        kind: what it is.
        number: of the request; an answer has the number of what it answers.
        fields: values that JSON can hold.
        tensors: named tensors.
    """

    kind: Kind
    number: int
    fields: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, Tensor] = field(default_factory=dict)


def encoded(frame: Frame) -> bytes:
    """Return the bytes of a frame."""
    about = {
        "pplr": VERSION,
        "kind": frame.kind.value,
        "number": str(frame.number),
        "fields": json.dumps(frame.fields, allow_nan=False),
    }
    return bytes(save({name: tensor.contiguous() for name, tensor in frame.tensors.items()}, metadata=about))


def decoded(data: bytes, most: int = FRAME_BYTES) -> Frame:
    """Return the frame in `data`, of `most` bytes at most; its tensors have memory of their own.

    Raises:
        WireError: it is none.
    """
    if len(data) > most:
        raise WireError(f"A frame has {len(data):,} bytes, and {most:,} are allowed. Make batches smaller.")
    length = int.from_bytes(data[:8], "little") if len(data) >= 8 else -1
    if not 0 < length <= min(HEADER_BYTES, len(data) - 8) or length % 8:
        _refuse("its header is too long, too short, or cut off")
    header = _json_object(data[8 : 8 + length])
    about = header.pop("__metadata__", None)
    if not isinstance(about, dict) or about.keys() != {"pplr", "kind", "number", "fields"}:
        _refuse("its header does not say what it is")
    if not all(isinstance(value, str) for value in about.values()):
        _refuse("its header does not say what it is")
    if about["pplr"] != VERSION:
        raise WireError(f"A frame has version {about['pplr'][:20]!r} of the wire; this program speaks {VERSION}.")
    if about["kind"] not in Kind.__members__.values() or not re.fullmatch(r"[0-9]{1,18}", about["number"]):
        _refuse("its kind or number is unknown")
    tensors = _tensors(header, memoryview(data)[8 + length :])
    return Frame(Kind(about["kind"]), int(about["number"]), _json_object(about["fields"].encode()), tensors)


def _tensors(header: dict[str, Any], content: memoryview) -> dict[str, Tensor]:
    if len(header) > TENSORS:
        _refuse(f"it has {len(header)} tensors")
    places = sorted((_place(name, entry) for name, entry in header.items()), key=lambda place: place[3])
    end = 0
    for _, dtype, shape, begin, stop in places:
        if begin != end or stop - begin != math.prod(shape) * dtype.itemsize or begin % dtype.itemsize:
            _refuse("its tensors do not lie one behind the other")
        end = stop
    if end != len(content):
        _refuse("its tensors do not fill it")
    return {
        name: torch.frombuffer(bytearray(content[begin:stop]), dtype=dtype).reshape(shape)
        if stop > begin
        else torch.empty(shape, dtype=dtype)
        for name, dtype, shape, begin, stop in places
    }


def _place(name: str, entry: Any) -> tuple[str, torch.dtype, list[int], int, int]:
    if not _NAME.fullmatch(name) or not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        _refuse("it has a tensor without a proper name, type, shape or place")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        _refuse("it has a tensor of a type that does not travel")
    if not _is_counts(shape) or len(shape) > 3 or not _is_counts(offsets) or len(offsets) != 2:
        _refuse("it has a tensor whose shape or place is none")
    return name, _DTYPES[dtype], shape, offsets[0], offsets[1]


def _is_counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(one) is int and 0 <= one < 2**40 for one in value)


def _json_object(data: bytes) -> dict[str, Any]:
    """Return the JSON object in `data`; keys that stand twice, and numbers that are none, are refused."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a key stands twice")
        return found

    def no_number(text: str) -> NoReturn:
        raise ValueError(f"{text} is no number")

    try:
        value = json.loads(data, object_pairs_hook=unique, parse_constant=no_number)
    except (ValueError, RecursionError) as problem:
        raise WireError("A frame cannot be read: its header is not JSON.") from problem
    if not isinstance(value, dict):
        _refuse("its header is no JSON object")
    return value


def _refuse(why: str) -> NoReturn:
    raise WireError(f"A frame cannot be read: {why}.")
