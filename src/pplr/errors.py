"""Every error that pplr raises on purpose.

    PplrError                 catch this one to catch them all
    ├── ConfigError           change the configuration or the command line
    ├── DataError             change the data files, or the columns that name them
    ├── ModelError            choose another model, or repair its folder
    │   └── ModelUnavailable  make the model reachable: pull it, or copy it here
    ├── RunError              choose another run folder, or start without --resume
    │   └── CheckpointError   go back to an earlier checkpoint, or start again
    ├── NumericalError        the numbers went wrong: lower the learning rate, look at the data
    └── StorageError          make room on the disk, or make it writable

A message is one or more whole sentences: what happened, the offending value, the allowed values, what to do.
The command line prints it without a traceback and exits with `exit_code`.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from difflib import get_close_matches

_COMPARED = 50_000
"""Names that are compared at most, which takes a second: nobody waits for half a minute to read that a user is unknown."""


class PplrError(Exception):
    """Base of all errors raised on purpose; its text is meant for the person at the keyboard."""

    exit_code = 1


class ConfigError(PplrError):
    """The configuration or the command line asks for something that cannot be.

    Attributes:
        problems: one sentence per problem; the message lists them all.
    """

    exit_code = 2

    def __init__(self, problems: str | Iterable[str]) -> None:
        self.problems: tuple[str, ...] = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))


class DataError(PplrError):
    """The data cannot be used as it is."""

    exit_code = 3


class ModelError(PplrError):
    """A pretrained model cannot be used for what was asked."""

    exit_code = 4


class ModelUnavailable(ModelError):
    """A pretrained model is neither in the cache nor reachable; the message says how to get it."""


class RunError(PplrError):
    """A run folder is missing, occupied, incomplete, or belongs to another configuration."""

    exit_code = 5


class InUse(RunError):
    """Another process works in the folder right now."""


class Occupied(RunError):
    """There is a run in the folder already."""


class CannotResume(RunError):
    """A run that was begun cannot be gone on with: its folder, its configuration or what it was made from has changed."""


class CheckpointError(CannotResume):
    """A checkpoint is missing or damaged."""


class NumericalError(PplrError):
    """A loss, gradient or score is not finite; the message names where."""

    exit_code = 6


class StorageError(PplrError):
    """The disk is full or not writable; what was already complete is still there."""

    exit_code = 7


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the allowed name closest to `name`, or "" where none is close, or there are too many."""
    names = list(allowed)
    matches = get_close_matches(name, names, n=1, cutoff=0.6) if len(names) <= _COMPARED else []
    return f" Did you mean '{matches[0]}'?" if matches else ""


def command(*words: object) -> str:
    """Return a command line that can be copied into a shell: pplr run 'my shop.toml'."""
    return shlex.join(str(word) for word in words)
