"""Whose turn it is at a server with one model: one thread works, and nobody has more than one call taken in."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import ParamSpec, TypeVar

import torch

from pplr.errors import RunError
from pplr.pki import Identity

CALLS_EACH = 2
"""Calls of one caller: one that is served, and one that waits, such as that of a caller whose connection broke."""

P = ParamSpec("P")
T = TypeVar("T")


class CrowdedError(RunError):
    """A caller has made too many calls at once."""


class Turns:
    """Turns of callers, and the thread that works for them.

    Work that has begun is done to its end, whoever gives up waiting for it: the model has the adapters of one caller bound
    meanwhile, and the next one's must not meet them.
    """

    def __init__(self) -> None:
        threads = torch.get_num_threads()
        self._worker = ThreadPoolExecutor(1, "pplr-catalogue", torch.set_num_threads, (threads,))
        self._locks: dict[Identity, asyncio.Lock] = {}
        self._calls: Counter[Identity] = Counter()

    @asynccontextmanager
    async def of(self, identity: Identity) -> AsyncIterator[None]:
        """Be the one call of `identity` inside the block; another one waits before it.

        Raises:
            CrowdedError: one waits already.
        """
        if self._calls[identity] >= CALLS_EACH:
            raise CrowdedError(f"{identity} has {CALLS_EACH} calls here already. End one, then ask again.")
        self._calls[identity] += 1
        try:
            async with self._locks.setdefault(identity, asyncio.Lock()):
                yield
        finally:
            self._calls[identity] -= 1

    async def work(self, function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """Return what `function` gives, which runs after all that was asked for before it."""
        return await asyncio.wrap_future(self._worker.submit(function, *arguments, **named))

    def close(self) -> None:
        """Begin nothing more."""
        self._worker.shutdown(wait=False, cancel_futures=True)
