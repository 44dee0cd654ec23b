"""What was done to the data, in words: every reader, check and cleaning step returns notes and logs them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_logger = logging.getLogger("pplr.data")


@dataclass(frozen=True)
class Note:
    """One thing that was done to the data, or seen in it.

    Attributes:
        step: short name of the step, the same in every run (for example "html-entities").
        count: how many events, users, items or texts it concerned.
        text: a whole sentence for a person.
    """

    step: str
    count: int
    text: str


def log_notes(notes: Iterable[Note]) -> None:
    """Write each note to the logger `pplr.data` at level INFO."""
    for note in notes:
        _logger.info("%s", note.text)


def examples(values: Sequence[object], limit: int = 3) -> str:
    """Return the first `limit` values in quotation marks, separated by commas, and "..." where there are more."""
    shown = ", ".join(f"'{value}'" for value in values[:limit])
    return f"{shown}, ..." if len(values) > limit else shown
