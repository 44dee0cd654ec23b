"""One stream of frames between a party and the trunk's server: requests in, answers out, in order.

Whatever a party does that is not allowed ends its session, with a status and a sentence.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, TypeVar

import grpc
import grpc.aio

from pplr.errors import CheckpointError, RunError
from pplr.pki import Identity, Role
from pplr.trunk.desk import Asked
from pplr.trunk.fields import CLIENTS, COORDINATORS, Contract, Limits
from pplr.trunk.figures import Figures
from pplr.trunk.frames import Frame, WireError, decoded, encoded
from pplr.trunk.messages import request
from pplr.trunk.schedule import Answer, Schedule

T = TypeVar("T")


class NotYet(RunError):
    """Not now; later."""


class Idle(RunError):
    """Nothing happened for too long."""


class Replaced(RunError):
    """The same party has begun another session."""


def status_of(problem: Exception) -> grpc.StatusCode:
    """Return the status with which a session ends by `problem`."""
    kinds: tuple[tuple[type[Exception], grpc.StatusCode], ...] = (
        (NotYet, grpc.StatusCode.UNAVAILABLE),
        (Idle, grpc.StatusCode.DEADLINE_EXCEEDED),
        (Replaced, grpc.StatusCode.ABORTED),
        (WireError, grpc.StatusCode.INVALID_ARGUMENT),
        (CheckpointError, grpc.StatusCode.DATA_LOSS),
    )
    return next((status for kind, status in kinds if isinstance(problem, kind)), grpc.StatusCode.FAILED_PRECONDITION)


class Stream:
    """Frames on one gRPC stream, read and written with time limits."""

    def __init__(self, context: Any, wire: Executor, limits: Limits, figures: Figures) -> None:
        """Read and write frames in `wire`, apart from the loop that everybody waits on."""
        self._context = context
        self._wire = wire
        self._limits = limits
        self._figures = figures

    async def receive(self, seconds: float, busy: Callable[[], bool] = lambda: False) -> Frame | None:
        """Return the next frame, or None where the other end has no more to say.

        Raises:
            Idle: nothing came for `seconds`, although nothing of this session was under way.
            WireError: what came is no frame.
        """
        reading = asyncio.ensure_future(self._context.read())
        try:
            while not (await asyncio.wait({reading}, timeout=seconds))[0]:
                if not busy():
                    raise Idle(f"Nothing was said for {seconds:g} s, so the session was ended.")
            data = reading.result()
        finally:
            reading.cancel()
        if data is grpc.aio.EOF:
            return None
        frame = await self.aside(decoded, data, self._limits.frame_bytes)
        self._figures.bytes.labels("up", frame.kind.value).inc(len(data))
        return frame

    async def send(self, frame: Frame) -> None:
        """Send a frame.

        Raises:
            Idle: the other end has not taken it in time.
        """
        data = await self.aside(encoded, frame)
        try:
            # not wait_for: before Python 3.12 it loses a cancellation that meets the end of the write
            async with asyncio.timeout(self._limits.idle_seconds):
                await self._context.write(data)
        except TimeoutError as problem:
            raise Idle("Answers were not taken for too long, so the session was ended.") from problem
        self._figures.bytes.labels("down", frame.kind.value).inc(len(data))

    async def aside(self, work: Callable[..., T], *arguments: object) -> T:
        """Return what `work` returns, done in a thread for bytes."""
        return await asyncio.get_running_loop().run_in_executor(self._wire, work, *arguments)


class Session:
    """What a party asks for, after both ends have agreed.

    Attributes:
        identity: whose it is, by its certificate.
        contract: what it agreed on.
        cleared: what it held is being freed, or has been.
        gone: set when nothing of it is left.
    """

    def __init__(self, identity: Identity, contract: Contract, stream: Stream, still_valid: Callable[[], None]) -> None:
        """`still_valid` raises RunError where the party may no longer be here."""
        self.identity = identity
        self.contract = contract
        self.cleared = False
        self.gone = asyncio.Event()
        self._stream = stream
        self._still_valid = still_valid
        self._end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._under_way: deque[asyncio.Future[Answer]] = deque()
        self._room = asyncio.Semaphore(contract.limits.waiting)
        self._arrived = asyncio.Event()
        self._read_all = False

    @property
    def client(self) -> str:
        """Name under which its requests are served; "" for the coordinator."""
        return self.identity.name if self.identity.role is Role.CLIENT else ""

    @property
    def busy(self) -> bool:
        """Something of it is under way."""
        return bool(self._under_way)

    def end(self, why: RunError) -> None:
        """Have the session end."""
        if not self._end.done():
            self._end.set_exception(why)

    async def speak(self, schedule: Schedule, welcome: Frame) -> None:
        """Say welcome, then take requests and give answers until the party leaves, or `end` is called.

        Raises:
            RunError: why it ends, if not because the party left.
        """
        await self._say(welcome)
        reading = asyncio.create_task(self._read(schedule))
        writing = asyncio.create_task(self._write())
        tasks: set[asyncio.Future[None]] = {reading, writing, self._end}
        try:
            while writing not in (done := (await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED))[0]):
                for one in done:
                    one.result()
                tasks -= done  # the party has said all; the last answers are still to be given
            writing.result()
        finally:
            for task in (reading, writing):
                task.cancel()
            self._end.cancel()
            await asyncio.gather(reading, writing, return_exceptions=True)

    async def _read(self, schedule: Schedule) -> None:
        allowed = COORDINATORS if self.identity.role is Role.COORDINATOR else CLIENTS
        while True:
            await self._room.acquire()  # a party that asks faster than it is served waits on the wire
            frame = await self._stream.receive(self.contract.limits.idle_seconds, lambda: self.busy)
            if frame is None:
                break
            if frame.kind not in allowed:
                raise WireError(f"A request of kind {frame.kind} is not for {self.identity}.")
            asked = await self._stream.aside(request, frame, self.contract)
            self._still_valid()
            self._under_way.append(schedule.submit(self, Asked(self.client, asked, self.contract)))
            self._arrived.set()
        self._read_all = True
        self._arrived.set()

    async def _say(self, welcome: Frame) -> None:
        """Send the welcome, unless `end` comes first: gRPC may never finish a write on a stream that it has closed itself."""
        saying = asyncio.ensure_future(self._stream.send(welcome))
        await asyncio.wait({saying, self._end}, return_when=asyncio.FIRST_COMPLETED)
        if self._end.done():
            saying.cancel()
            self._end.result()
        saying.result()

    async def _write(self) -> None:
        while True:
            while not self._under_way:
                if self._read_all:
                    return
                self._arrived.clear()
                await self._arrived.wait()
            answer = await self._under_way[0]
            if isinstance(answer, RunError):
                raise answer
            if answer is not None:
                await self._stream.send(answer)
            self._under_way.popleft()
            self._room.release()
