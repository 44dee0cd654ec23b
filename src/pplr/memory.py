"""A machine with too little memory, said in a sentence; and memory that is given back."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from pplr.errors import ConfigError

_SIGNS = ("can't allocate memory", "out of memory")
"""How torch says that the memory, or that of a GPU, is not enough: in errors of its most general kind."""


@contextmanager
def enough_memory() -> Iterator[None]:
    """Turn a failed allocation of NumPy, or of torch on any device, into a sentence; also usable as a decorator.

    Raises:
        ConfigError: naming what was asked for, and what to lower.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as problem:
        if not isinstance(problem, MemoryError) and not any(sign in str(problem) for sign in _SIGNS):
            raise
        first = (str(problem).splitlines() or ["the machine gave no more"])[0]
        reason = first.rpartition("DefaultCPUAllocator: ")[2].rstrip(".")
        raise ConfigError(
            f"The memory is not enough: {reason}. Lower training.batch_tokens, choose a smaller model or a narrower "
            "backbone, give fewer items or clients, or use a machine with more memory."
        ) from problem


def give_back_freed() -> None:
    """Give the system back what the C library keeps of freed memory, which it does not do by itself.

    What is kept is often of no use to what comes next: a search takes other sizes than training left. Nothing happens
    where the C library has no such function (all but glibc).
    """
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)
