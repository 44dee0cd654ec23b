"""Frames that no client of a trunk's server should send: drawn from a seed, each wrong by construction.

A frame begins as a proper request of a float32 session, and one thing in it is made wrong. Only `spoilt` ones, in which
bytes were overwritten, may still be proper by chance.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pplr.models.causal.interface import Sight
from pplr.trunk.codecs import CODECS
from pplr.trunk.fields import CLIENTS, COORDINATORS, Contract
from pplr.trunk.frames import Frame, Kind, WireError, decoded, encoded
from pplr.trunk.messages import request
from pplr.trunk.payload import read_tensors, state_tensors
from pplr.trunk.work import Manner, States

ANSWERS = (Kind.WELCOME, Kind.STATES, Kind.GRADIENT, Kind.MATRIX, Kind.DONE)
HUGE = (2**16 + 1, 10**6, 2**31 - 1, 2**31, 2**53, 2**63, 10**30)
VALUES: tuple[Any, ...] = (None, -1, "", "1", "x" * 2000, [], [[]], {}, {"a": 1}, 1.5, -(2**63), 1e308, "\u0000")


class FrameFuzzer:
    """Draws frames.

    Attributes:
        contract: what the session agreed on.
        ways: how a frame can be made wrong, by name.
    """

    def __init__(self, seed: int, contract: Contract) -> None:
        self._random = np.random.default_rng(seed)
        self.contract = contract
        self.ways: dict[str, Callable[[], bytes]] = {
            "random bytes": lambda: self._bytes(int(self._random.integers(4096))),
            "spoilt": self._spoilt,
            "cut off": lambda: (data := self._proper())[: int(self._random.integers(len(data)))],
            "bytes behind": lambda: self._proper() + self._bytes(1 + int(self._random.integers(64))),
            "header length": self._header_length,
            "shape": lambda: self._entry("shape", self._shape),
            "type": lambda: self._entry("dtype", lambda old: self._other(old, *_TYPES)),
            "place": lambda: self._entry("data_offsets", self._place),
            "tensor's name": self._tensor_name,
            "version, kind, number": self._about,
            "header that is no object": self._no_object,
            "huge count": lambda: self._fields(lambda fields, name: fields | {name: self._one(HUGE)}, counts=True),
            "field of another type": lambda: self._fields(lambda fields, name: fields | {name: self._one(VALUES)}),
            "field left out": lambda: self._fields(lambda f, name: {key: f[key] for key in f if key != name}),
            "field too many": lambda: self._fields(lambda fields, _: fields | {"more": self._one((*HUGE, *VALUES))}),
            "not finite": self._not_finite,
            "another codec": self._another_codec,
            "another number of tokens": self._another_mask,
            "tensor left out": self._tensor_left_out,
            "an answer": lambda: encoded(Frame(self._one(ANSWERS), 1, {}, {})),
            "a coordinator's": lambda: encoded(
                Frame(self._one(sorted(COORDINATORS - {Kind.GRAM, Kind.MIX})), 1, {"round": 1})
            ),
        }

    def draw(self) -> tuple[str, bytes]:
        """Return a frame, and the way in which it is wrong."""
        name = self._one(tuple(self.ways))
        return name, self.ways[name]()

    def accepted(self, data: bytes) -> bool:
        """Return whether the server reads `data` as a client's request; a WireError refuses it, nothing else may be raised."""
        try:
            frame = decoded(data, self.contract.limits.frame_bytes)
            if frame.kind in CLIENTS:
                request(frame, self.contract)
        except WireError:
            return False
        return frame.kind in CLIENTS

    def states(self) -> States:
        """Return states of some rows, with padding."""
        rows, length = (int(self._random.integers(1, most)) for most in (5, 12))
        lengths = self._random.integers(1, length + 1, size=(rows, 1))
        present = torch.from_numpy(np.arange(length) < lengths)
        return States(self._normal(rows, length, self.contract.width) * present[..., None], present)

    def forward(self, number: int, given: States, **changes: Any) -> Frame:
        """Return a forward pass that will have a backward pass."""
        rows, length = given.present.shape
        manner = vars(Manner(causal=True, dropout=int(self._random.integers(2**31)), gradients=True))
        fields = {"rows": rows, "length": length, "start": 0, **manner, **changes}
        return Frame(Kind.FORWARD, number, fields, state_tensors(given, self.contract, present=True))

    def backward(self, number: int, of: int, given: States) -> Frame:
        """Return the gradient for what came of pass `of`."""
        rows, length = given.present.shape
        fields = {"of": of, "start": 0, "rows": rows, "length": length}
        return Frame(Kind.BACKWARD, number, fields, state_tensors(given, self.contract, present=True))

    def read(self, number: int, reading: int = 1, *, read: int = 0) -> Frame:
        """Return new tokens for a reading of two rows that has `read` tokens."""
        new = int(self._random.integers(1, 6))
        fields = {"reading": reading, "room": 4, "adapted": True, "best": False, "rows": 2, "new": new}
        positions = torch.arange(read, read + new).expand(2, new)
        sight = Sight(torch.ones(2, read + new, dtype=torch.bool))
        tensors = read_tensors(self._normal(2, new, self.contract.width), positions, sight, self.contract)
        return Frame(Kind.READ, number, fields | {"all": read + new, "full": False}, tensors)

    def _proper_frame(self) -> Frame:
        given = self.states()
        drawn = int(self._random.integers(4))
        if drawn == 0:
            return self.backward(2, 1, given)
        if drawn == 1:
            return self.read(1)
        if drawn == 2:
            return Frame(Kind.STEP, 1, {"step": 1, "rate": 0.1, "factor": 1.0})
        return self.forward(1, given)

    def _proper(self) -> bytes:
        return encoded(self._proper_frame())

    def _with_tensors(self) -> Frame:
        while not (frame := self._proper_frame()).tensors:
            pass
        return frame

    def _spoilt(self) -> bytes:
        data = bytearray(self._proper())
        header = 8 + struct.unpack("<Q", data[:8])[0]
        for _ in range(int(self._random.integers(1, 5))):
            place, size = int(self._random.integers(min(header, len(data)))), int(self._random.integers(4))
            if size:
                data[place : place + size] = self._bytes(int(self._random.integers(4)))
            else:
                data[place] ^= 1 << int(self._random.integers(8))
        return bytes(data)

    def _header_length(self) -> bytes:
        data = self._proper()
        length = struct.unpack("<Q", data[:8])[0]
        lies = (0, length - 8, length + 8, length - 1, len(data), len(data) + 8, 2**16 + 8, 2**31, 2**63, 2**64 - 1)
        return struct.pack("<Q", self._one(lies)) + data[8:]

    def _entry(self, key: str, change: Callable[[Any], Any]) -> bytes:
        """Return a frame in whose header something about one tensor is another."""
        header, content = _parted(encoded(self._with_tensors()))
        name = self._one([name for name in header if name != "__metadata__"])
        header[name][key] = change(header[name][key])
        return _joined(header, content)

    def _shape(self, old: list[int]) -> Any:
        lies = [[], [0], [-1, *old[1:]], [*old, 1], [old[0] + 1, *old[1:]], [2**40] * len(old), [2**39] * 3, None, "2"]
        return self._other(old, *lies, [True, *old[1:]] if old[0] != 1 else [2.5], [1] * 40, [2**63])

    def _place(self, old: list[int]) -> Any:
        begin, end = old
        return self._other(
            old,
            [end, begin],
            [begin + 1, end + 1],
            [begin, end + 4],
            [0, 2**40],
            [-4, end],
            [begin],
            [],
            None,
            [1.0, 2.0],
        )

    def _tensor_name(self) -> bytes:
        header, content = _parted(encoded(self._with_tensors()))
        name = self._one([name for name in header if name != "__metadata__"])
        entry = header.pop(name)
        other = self._one(
            ("", "../a", "a" * 5000, "rows", "rows.other", "x.values", "rows.values.more", "\u202e", "ROWS.values")
        )
        return _joined(header | {other: entry}, content)

    def _about(self) -> bytes:
        header, content = _parted(self._proper())
        about = header["__metadata__"]
        lies: tuple[tuple[str, Any], ...] = (
            *(("pplr", value) for value in ("", "0", "1", "2.0", "x" * 3000, 2)),
            *(("kind", value) for value in ("", "Forward", "shutdown", "hello", "welcome", "x" * 3000, 5, None)),
            *(("number", value) for value in ("", "-1", "1e3", "0x1", "9" * 19, "9" * 3000, 1, "१", " 1")),
            *(
                ("fields", value)
                for value in ("", "[]", "null", "{", "NaN", '{"a":NaN}', '{"a":1,"a":2}', "[" * 9000, 7)
            ),
            ("more", "1"),
        )
        key, value = self._one(lies)
        if self._random.random() < 0.1:
            del about[key if key in about else "pplr"]
        else:
            about[key] = value
        return _joined(header, content)

    def _no_object(self) -> bytes:
        texts = (
            b"[]",
            b"null",
            b"1",
            b"{",
            b"{}}",
            b"NaN",
            b'{"a":1,"a":1}',
            b'{"__metadata__":[]}',
            b"\xff\xfe{}",
            b"",
        )
        deep = b'{"a":' * int(self._random.integers(1, 12000))
        text = self._one((*texts, deep[:65000]))
        return _padded(text) + self._bytes(int(self._random.integers(64)))

    def _fields(self, change: Callable[[dict[str, Any], str], dict[str, Any]], *, counts: bool = False) -> bytes:
        """Return a frame in whose fields something is another: a count, where `counts`, else anything."""
        frame = self._proper_frame()
        names = [name for name, value in frame.fields.items() if type(value) is int or not counts]
        names = [name for name in names if name not in ("dropout", "of", "reading", "rate")]
        if counts and frame.kind is Kind.STEP:
            return encoded(Frame(frame.kind, 1, dict(frame.fields) | {"step": self._one(HUGE[3:])}))
        fields = change(dict(frame.fields), self._one(names))
        return encoded(Frame(frame.kind, frame.number, fields, frame.tensors))

    def _not_finite(self) -> bytes:
        frame = self._with_tensors()
        values = frame.tensors["rows.values"].clone()
        values.view(-1)[int(self._random.integers(values.numel()))] = self._one(
            (float("nan"), float("inf"), -float("inf"))
        )
        return encoded(Frame(frame.kind, frame.number, frame.fields, {**frame.tensors, "rows.values": values}))

    def _another_codec(self) -> bytes:
        frame = self._with_tensors()
        others = [name for name in CODECS if name != self.contract.codec.name]
        found = CODECS[self._one(others)].encode(frame.tensors["rows.values"])
        tensors = {name: value for name, value in frame.tensors.items() if name != "rows.values"}
        tensors |= {f"rows.{name}": value for name, value in found.items()}
        return encoded(Frame(frame.kind, frame.number, frame.fields, tensors))

    def _another_mask(self) -> bytes:
        given = self.states()
        frame = self.forward(1, given)
        bits = frame.tensors["present"].clone()
        bits[0] ^= 0b10000000
        return encoded(Frame(frame.kind, 1, frame.fields, {**frame.tensors, "present": bits}))

    def _tensor_left_out(self) -> bytes:
        frame = self._with_tensors()
        name = self._one(sorted(frame.tensors))
        tensors = {key: value for key, value in frame.tensors.items() if key != name}
        return encoded(Frame(frame.kind, frame.number, frame.fields, tensors))

    def _bytes(self, count: int) -> bytes:
        return self._random.bytes(count)

    def _normal(self, *shape: int) -> Tensor:
        return torch.from_numpy(self._random.standard_normal(shape).astype(np.float32))

    def _one(self, values: Any) -> Any:
        return values[int(self._random.integers(len(values)))]

    def _other(self, old: Any, *values: Any) -> Any:
        return self._one([value for value in values if value != old])


_TYPES = ("F64", "F32", "BF16", "I64", "I8", "U8", "F16", "F8_E4M3", "BOOL", "I32", "", "f32", None, 4, ["F32"])


def _parted(data: bytes) -> tuple[dict[str, Any], bytes]:
    end = 8 + struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8:end]), data[end:]


def _joined(header: dict[str, Any], content: bytes) -> bytes:
    return _padded(json.dumps(header).encode()) + content


def _padded(text: bytes) -> bytes:
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text
