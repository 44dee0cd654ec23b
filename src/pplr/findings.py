"""Looking before work begins: one finding after the other, each in a sentence."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from pplr.errors import PplrError

Look = tuple[str, Callable[[], str]]
"""What is looked at, and what says how it is, or raises an error of which the text says what to do."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        what: in a word or two.
        good: whether a party can take part as far as this goes.
        text: what was found, or what to do.
    """

    what: str
    good: bool
    text: str


def findings(looks: Iterable[Look]) -> Iterator[Finding]:
    """Give findings one after the other; none stops the others."""
    for what, look in looks:
        try:
            yield Finding(what, True, look())
        except (PplrError, OSError) as problem:
            yield Finding(what, False, str(problem))
