"""A stream of frames: whoever writes on it can be told to stop at any moment."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest

from pplr.trunk.fields import Limits
from pplr.trunk.figures import Figures
from pplr.trunk.frames import Frame, Kind
from pplr.trunk.session import Stream


class Wire:
    """gRPC's side of a stream: a write ends when it is told so."""

    def __init__(self) -> None:
        self.writing = asyncio.Event()
        self.written = asyncio.Event()

    async def write(self, data: bytes) -> None:
        self.writing.set()
        await self.written.wait()


@pytest.mark.parametrize("turns", range(5))
def test_a_writer_that_is_cancelled_while_its_write_ends_stops(turns: int) -> None:
    async def stopped() -> bool:
        wire = Wire()
        with ThreadPoolExecutor(1) as threads:
            stream = Stream(wire, threads, Limits(), Figures())

            async def write() -> None:
                await stream.send(Frame(Kind.DONE, 1, {"steps": 0}))
                await asyncio.Event().wait()  # for the next answer

            writer = asyncio.create_task(write())
            await wire.writing.wait()
            wire.written.set()
            for _ in range(turns):
                await asyncio.sleep(0)
            writer.cancel()
            done, _ = await asyncio.wait({writer}, timeout=5)
            writer.cancel()
        return bool(done)

    assert asyncio.run(stopped())
