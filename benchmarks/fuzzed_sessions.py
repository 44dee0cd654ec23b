"""Sessions that no client of a trunk's server should hold: drawn from a seed, each wrong by construction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fuzzed_frames import HUGE, FrameFuzzer
from pplr.trunk.fields import HelloFields
from pplr.trunk.frames import Frame, Kind, encoded


class SessionFuzzer:
    """Draws the frames of sessions; what is wrong comes last.

    Attributes:
        ways: how a session can be wrong beside a wrong frame, by name.
    """

    def __init__(self, frames: FrameFuzzer, hello: HelloFields, seed: int) -> None:
        self._frames = frames
        self._hello = hello
        self._random = np.random.default_rng(seed)
        self.ways: dict[str, Callable[[], list[Frame]]] = {
            "step left out": lambda: [self._step(int(self._random.integers(2, 10**9)))],
            "gradient for nothing": lambda: [self._frames.backward(1, 99, self._frames.states())],
            "gradient twice": self._gradient_twice,
            "gradient of another shape": self._gradient_of_another_shape,
            "pass twice": lambda: [self._frames.forward(1, self._frames.states()) for _ in range(2)],
            "too many passes": lambda: [self._frames.forward(n, self._frames.states()) for n in range(1, 6)],
            "another round": lambda: [Frame(Kind.START, 1, {"round": int(self._random.integers(2, 10**9))})],
            "reading never begun": self._reading_never_begun,
            "reading goes on elsewhere": lambda: [self._frames.read(1), self._frames.read(2, read=77)],
            "too many readings": lambda: [self._frames.read(n, n) for n in range(1, 6)],
            "rows that are not there": self._rows_that_are_not_there,
            "hello twice": lambda: [Frame(Kind.HELLO, 1, self._hello.model_dump())],
        }

    def draw(self) -> tuple[str, list[bytes]]:
        """Return the frames of a session, and the way in which it is wrong."""
        drawn = self._random.random()
        if drawn < 0.1:
            return "hello", [self._wrong_hello()]
        if drawn < 0.13:
            return "no hello", [encoded(self._frames.forward(0, self._frames.states()))]
        begun = [encoded(Frame(Kind.HELLO, 0, self._hello.model_dump()))]
        if drawn < 0.4:
            name = str(self._random.choice(list(self.ways)))
            return name, begun + [encoded(frame) for frame in self.ways[name]()]
        if drawn < 0.405:
            return "too large", [*begun, bytes(self._frames.contract.limits.frame_bytes + 1)]
        if drawn < 0.6:
            begun += [encoded(self._frames.forward(10**6, self._frames.states()))]
        way, data = self._frames.draw()
        while way == "spoilt" and self._frames.accepted(data):
            way, data = self._frames.draw()
        return way, [*begun, data]

    def _wrong_hello(self) -> bytes:
        good = self._hello.model_dump()
        changes: tuple[dict[str, Any], ...] = (
            {"agreement": good["agreement"] | {"settings": "f" * 32}},
            {"agreement": good["agreement"] | {"model": ""}},
            {"agreement": good["agreement"] | {"bottom": 2}},
            {"agreement": good["agreement"] | {"top": self._one(HUGE)}},
            {"agreement": None},
            {"run": "another"},
            {"run": "x" * 1000},
            {"codec": self._one(("float16", "", "x" * 17, None, 1))},
            {"bucket": self._one((0, -1, *HUGE))},
            {"clients": self._one((["a"] * 20_000, [1], "a", {}))},
            {"fresh": "yes"},
            {"more": 1},
        )
        return encoded(Frame(Kind.HELLO, 0, good | self._one(changes)))

    def _gradient_twice(self) -> list[Frame]:
        given = self._frames.states()
        return [self._frames.forward(1, given), *(self._frames.backward(n, 1, given) for n in (2, 3))]

    def _gradient_of_another_shape(self) -> list[Frame]:
        given, other = self._frames.states(), self._frames.states()
        while other.present.shape == given.present.shape:
            other = self._frames.states()
        return [self._frames.forward(1, given), self._frames.backward(2, 1, other)]

    def _reading_never_begun(self) -> list[Frame]:
        rows = int(self._random.integers(1, 5))
        return [
            self._one(
                (
                    Frame(Kind.SHIFT, 1, {"reading": 9, "moves": [(0, 0)], "rows": rows}),
                    Frame(Kind.SPREAD, 1, {"reading": 9, "rows": rows, "room": 3}),
                )
            )
        ]

    def _rows_that_are_not_there(self) -> list[Frame]:
        far = self._one((2, 63, *HUGE))
        return [
            self._frames.read(1),
            self._one(
                (
                    Frame(Kind.SHIFT, 2, {"reading": 1, "moves": [(far, 0)], "rows": 1}),
                    Frame(Kind.SHIFT, 2, {"reading": 1, "moves": [(0, -far)], "rows": 1}),
                    Frame(Kind.SHIFT, 2, {"reading": 1, "moves": [], "rows": far + 1}),
                    Frame(Kind.SPREAD, 2, {"reading": 1, "rows": 2, "room": 1}),
                )
            ),
        ]

    def _step(self, number: int) -> Frame:
        return Frame(Kind.STEP, 1, {"step": number, "rate": 0.1, "factor": 1.0})

    def _one(self, values: Any) -> Any:
        return values[int(self._random.integers(len(values)))]
