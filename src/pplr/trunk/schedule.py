"""Who is served next: sessions in turn, and those that wait together together.

One thread computes. A forward pass is joined by the passes that other sessions wait for, as far as they fit; their
backward passes wait for each other a little, and no longer: nobody can hold up anybody else.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pplr.errors import RunError
from pplr.trunk.desk import Asked, Desk
from pplr.trunk.frames import Frame, Kind
from pplr.trunk.work import manner_key

Answer = Frame | RunError | None

T = TypeVar("T")

PATIENCE = 1.0
"""A backward pass waits for its partners at most this many times as long as their forward pass took."""

LEAST_PATIENCE = 0.005


@dataclass(eq=False)
class Job:
    """A request on its way.

    Attributes:
        asked: what is to be done.
        done: gets the answer.
        since: when it came; seconds of the monotonic clock.
        until: how long it waits for partners.
    """

    asked: Asked
    done: asyncio.Future[Answer]
    since: float = field(default_factory=time.monotonic)
    until: float = 0.0

    @property
    def kind(self) -> Kind:
        """What is asked."""
        return self.asked.request.kind

    @property
    def holds(self) -> bool:
        """It is a forward pass whose backward pass will come."""
        manner = self.asked.request.manner
        return manner is not None and manner.gradients

    @property
    def age(self) -> float:
        """Seconds since it came."""
        return time.monotonic() - self.since


class Schedule:
    """The queues of all sessions, and the loop that empties them."""

    def __init__(
        self,
        desk: Desk,
        executor: Executor,
        *,
        joint_tokens: int,
        observe: Callable[[list[Job], float], None] = lambda jobs, seconds: None,
    ) -> None:
        """Compute in `executor`, of one thread; batches of several clients have `joint_tokens` at most."""
        self._desk = desk
        self._executor = executor
        self._joint_tokens = joint_tokens
        self._observe = observe
        self._queues: OrderedDict[object, deque[Job]] = OrderedDict()
        self._wake = asyncio.Event()
        self._calls: deque[tuple[Callable[[], Any], asyncio.Future[Any]]] = deque()
        self._forward_seconds: dict[tuple[str, int], float] = {}
        self._alive: dict[str, object] = {}

    def enter(self, session: object, client: str) -> None:
        """Let a session's requests wait here."""
        self._queues[session] = deque()
        self._alive[client] = session

    def leave(self, session: object, client: str) -> None:
        """Forget what a session still waits for."""
        for job in self._queues.pop(session, ()):
            job.done.cancel()
        if self._alive.get(client) is session:
            del self._alive[client]
        for key in [key for key in self._forward_seconds if key[0] == client]:
            del self._forward_seconds[key]
        self._wake.set()

    def submit(self, session: object, asked: Asked) -> asyncio.Future[Answer]:
        """Return where the answer will be."""
        job = Job(asked, asyncio.get_running_loop().create_future())
        self._queues[session].append(job)
        self._wake.set()
        return job.done

    async def call(self, work: Callable[[], T]) -> T:
        """Return what `work` returns, done before the next request, while nothing else touches the desk."""
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._calls.append((work, done))
        self._wake.set()
        return await done

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        return sum(len(queue) for queue in self._queues.values())

    async def run(self) -> None:
        """Serve for ever."""
        loop = asyncio.get_running_loop()
        while True:
            self._wake.clear()
            while self._calls:
                await self._called(*self._calls.popleft())
            jobs, pause = self._next()
            if not jobs:
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._wake.wait()
                continue
            started = time.monotonic()
            answers = await loop.run_in_executor(self._executor, self._desk.answers, [job.asked for job in jobs])
            seconds = time.monotonic() - started
            for job, answer in zip(jobs, answers, strict=True):
                if job.holds:
                    self._forward_seconds[job.asked.client, job.asked.request.number] = seconds
                if not job.done.done():
                    job.done.set_result(answer)
            self._observe(jobs, seconds)

    async def _called(self, work: Callable[[], T], done: asyncio.Future[T]) -> None:
        try:
            result = await asyncio.get_running_loop().run_in_executor(self._executor, work)
        except Exception as problem:  # it belongs to whoever called
            if not done.done():
                done.set_exception(problem)
            return
        if not done.done():
            done.set_result(result)

    def _next(self) -> tuple[list[Job], float | None]:
        """Return what is to be computed next, or nothing and for how long."""
        now, pause = time.monotonic(), None
        for session in list(self._queues):
            queue = self._queues[session]
            if not queue:
                continue
            job = queue[0]
            if job.kind is Kind.BACKWARD:
                partners = self._partners(job)
                if partners is None:
                    if not job.until:
                        job.until = now + self._patience(job)
                    if now < job.until:
                        pause = min(pause or job.until - now, job.until - now)
                        continue
                    partners = []
                chosen = [(session, job), *partners]
            elif job.kind is Kind.FORWARD:
                chosen = [(session, job), *self._company(session, job)]
            else:
                chosen = [(session, job)]
            for owner, _ in chosen:
                self._queues[owner].popleft()
                self._queues.move_to_end(owner)
            return [one for _, one in chosen], None
        return [], pause

    def _company(self, session: object, job: Job) -> list[tuple[object, Job]]:
        """Return the passes of other sessions that are computed together with this one."""
        if self._joint_tokens <= 0 or not self._desk.work.can_join():
            return []
        wanted, clients = _key(job), {job.asked.client}
        rows, longest, start = _size(job)
        found: list[tuple[object, Job]] = []
        for other, queue in self._queues.items():
            if other is session or not queue or queue[0].kind is not Kind.FORWARD or _key(queue[0]) != wanted:
                continue
            more, length, _ = _size(queue[0])
            size = (rows + more) * max(longest, length) + (len(found) + 2) * start
            if size > self._joint_tokens or queue[0].asked.client in clients:
                continue
            rows, longest = rows + more, max(longest, length)
            clients.add(queue[0].asked.client)
            found.append((other, queue[0]))
        return found

    def _partners(self, job: Job) -> list[tuple[object, Job]] | None:
        """Return the backward passes that belong to this one, or None while one that may still come is not there."""
        found: list[tuple[object, Job]] = []
        for client, number in self._desk.work.partners(job.asked.client, job.asked.request.fields.of):
            session = self._alive.get(client)
            if session is None:
                continue
            queue = self._queues[session]
            if not queue or queue[0].kind is not Kind.BACKWARD or queue[0].asked.request.fields.of != number:
                return None
            found.append((session, queue[0]))
        return found

    def _patience(self, job: Job) -> float:
        seconds = self._forward_seconds.pop((job.asked.client, job.asked.request.fields.of), 0.0)
        return max(PATIENCE * seconds, LEAST_PATIENCE)


def _key(job: Job) -> tuple[object, ...] | None:
    request = job.asked.request
    return None if request.states is None or request.manner is None else manner_key(request.states, request.manner)


def _size(job: Job) -> tuple[int, int, int]:
    states = job.asked.request.states
    if states is None:
        return 0, 0, 0
    rows, length = states.present.shape
    return rows, length, 0 if states.start is None else states.start.shape[1]
