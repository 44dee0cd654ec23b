"""One thread, one model: work never overlaps, also when whoever asked for it has gone."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from pplr.catalogue.turns import CALLS_EACH, CrowdedError, Turns
from pplr.pki import Identity, Role

ONE, OTHER = Identity(Role.CLIENT, "shop-1"), Identity(Role.CLIENT, "shop-2")


class Model:
    """Notes who uses it, and when two do."""

    def __init__(self) -> None:
        self.users: list[str] = []
        self.overlapped = False
        self._free = threading.Lock()
        self.begun = threading.Event()

    def use(self, who: str, seconds: float) -> str:
        self.overlapped |= not self._free.acquire(blocking=False)
        self.users.append(who)
        self.begun.set()
        time.sleep(seconds)
        self._free.release()
        return who


def test_work_of_a_caller_that_has_gone_does_not_meet_the_next_ones() -> None:
    async def story() -> Model:
        turns, model = Turns(), Model()

        async def call(identity: Identity, seconds: float) -> str:
            async with turns.of(identity):
                return await turns.work(model.use, identity.name, seconds)

        gone = asyncio.create_task(call(ONE, 0.5))
        await asyncio.to_thread(model.begun.wait, 10)
        waiting = asyncio.create_task(call(OTHER, 0.0))
        never = asyncio.create_task(call(Identity(Role.CLIENT, "shop-3"), 0.0))
        await asyncio.sleep(0.05)
        for task in (gone, never):
            task.cancel()
        assert await asyncio.wait_for(waiting, 10) == "shop-2"
        assert await call(ONE, 0.0) == "shop-1", "whoever has gone may come again"
        turns.close()
        return model

    model = asyncio.run(story())
    assert not model.overlapped
    assert model.users == ["shop-1", "shop-2", "shop-1"], "what had not begun is not done for nobody"


def test_a_caller_waits_for_itself_and_for_nobody_else() -> None:
    async def story() -> None:
        turns, inside = Turns(), asyncio.Event()
        leave = asyncio.Event()

        async def stay(identity: Identity) -> None:
            async with turns.of(identity):
                inside.set()
                await leave.wait()

        first = [asyncio.create_task(stay(ONE)) for _ in range(CALLS_EACH)]
        await inside.wait()
        await asyncio.sleep(0)
        with pytest.raises(CrowdedError, match=r"shop-1 has 2 calls here already\. End one"):
            await stay(ONE)
        async with asyncio.timeout(10):
            async with turns.of(OTHER):
                leave.set()
            await asyncio.gather(*first)
            await stay(ONE)
        turns.close()

    asyncio.run(story())


def test_what_goes_wrong_is_told_to_whoever_asked() -> None:
    async def story() -> None:
        turns = Turns()
        with pytest.raises(ZeroDivisionError):
            await turns.work(lambda: 1 // 0)
        assert await turns.work(max, 1, 2) == 2
        turns.close()

    asyncio.run(story())
