"""What a client has asked its trunk for and may have to ask again, should the server go away.

A server keeps on its disk what a step has done, and nothing of the step before it is taken: a new session begins where
the last step ended. So everything is remembered from the first pass of a step until the server is known to have taken
it, and every reading until it is closed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pplr.trunk.frames import Kind


@dataclass(frozen=True)
class Sent:
    """One request.

    Attributes:
        number: of the request.
        kind: what was asked.
        data: the frame.
        held: belongs to a step: a pass with gradients, a gradient, or the step itself.
        step: number of the step, where it is one.
        reading: number of the reading that it belongs to.
    """

    number: int
    kind: Kind
    data: bytes
    held: bool = False
    step: int | None = None
    reading: int | None = None


class Journal:
    """Requests in the order in which they were sent."""

    def __init__(self) -> None:
        self._sent: dict[int, Sent] = {}

    def add(self, sent: Sent) -> None:
        """Remember a request; one that closes a reading, or starts a round, makes others needless."""
        if sent.kind is Kind.START:
            self._forget(lambda one: one.held)
        if sent.kind is Kind.CLOSE:
            self._forget(lambda one: one.reading == sent.reading)
            return
        self._sent[sent.number] = sent

    def answered(self, number: int, steps: int | None) -> None:
        """Note an answer, which says how many steps the server has taken."""
        one = self._sent.get(number)
        if one is not None and not one.held and one.reading is None:
            del self._sent[number]
        if steps is not None:
            self.taken(steps)

    def taken(self, steps: int) -> None:
        """Forget all that belongs to the steps up to number `steps`."""
        if any(one.kind is Kind.START for one in self._sent.values()):
            return  # the steps are those of the round before
        last = max((n for n, one in self._sent.items() if one.step is not None and one.step <= steps), default=None)
        if last is not None:
            self._forget(lambda one: one.held and one.number <= last)

    def again(self) -> list[Sent]:
        """Return what a new session begins with, in order."""
        return [self._sent[number] for number in sorted(self._sent)]

    def _forget(self, which: Callable[[Sent], bool]) -> None:
        self._sent = {number: one for number, one in self._sent.items() if not which(one)}
