"""The trunk's server on the network: gRPC with mutual TLS, one stream of frames per session (docs/wire.md)."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import grpc
import grpc.aio

from pplr.errors import ConfigError, PplrError, RunError
from pplr.pki import Identity, Party, Revocations, Role
from pplr.trunk.codecs import codec
from pplr.trunk.connection import METHOD
from pplr.trunk.desk import Desk
from pplr.trunk.door import caller, opened
from pplr.trunk.fields import HelloFields, fields_of
from pplr.trunk.figures import Figures
from pplr.trunk.frames import Frame, Kind, WireError
from pplr.trunk.health import HEALTH, SERVING
from pplr.trunk.schedule import Job, Schedule
from pplr.trunk.session import NotYet, Replaced, Session, Stream, status_of

HELLO_SECONDS = 20.0

LEAVE_SECONDS = 5.0
"""How long a session that was told to end is waited for."""
GRACE_SECONDS = 30.0
POLL_SECONDS = 0.05

log = logging.getLogger("pplr.trunk")


class TrunkServer:
    """Serves one desk.

    Attributes:
        figures: what Prometheus is told.
    """

    def __init__(self, desk: Desk, certificates: Path, *, joint_tokens: int) -> None:
        """Make a server with the trunk's certificate in the folder `certificates`.

        Raises:
            ConfigError: there is none.
            RunError: the list of revoked certificates cannot be trusted.
        """
        self._desk = desk
        self._party = Party.load(certificates, Identity(Role.TRUNK, "trunk"))
        self._revocations = Revocations(certificates)
        self._compute = ThreadPoolExecutor(1, thread_name_prefix="compute")
        self._wire = ThreadPoolExecutor(2, thread_name_prefix="wire")
        self.figures = Figures()
        self._schedule = Schedule(desk, self._compute, joint_tokens=joint_tokens, observe=self._observe)
        self._sessions: dict[str, Session] = {}
        self._ending = asyncio.Event()

    async def serve(self, address: str, ready: Callable[[int], None] = lambda port: None) -> None:
        """Serve at host:port until SIGTERM or SIGINT; port 0 is any that is free, and `ready` is told which.

        Raises:
            ConfigError: the address cannot be had.
        """
        server = self._made()
        port = opened(server, address, self._party)
        loop = asyncio.get_running_loop()
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, self._ending.set)
        await server.start()
        scheduling = asyncio.create_task(self._schedule.run())
        scheduling.add_done_callback(lambda _: self._ending.set())
        ready(port)
        await self._ending.wait()
        log.info("going down: steps under way are finished, for %g s at most", GRACE_SECONDS)
        stopping = asyncio.create_task(server.stop(GRACE_SECONDS))
        if not scheduling.done():
            await self._steps_finished()
        for session in list(self._sessions.values()):
            session.end(NotYet("The trunk's server is going down."))
        await stopping
        if scheduling.done():
            scheduling.result()  # what broke it
        scheduling.cancel()
        self._compute.shutdown()
        self._wire.shutdown()

    def _made(self) -> grpc.aio.Server:
        limits = self._desk.limits
        server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", limits.frame_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.max_concurrent_streams", 16),
                ("grpc.keepalive_time_ms", 20_000),
                ("grpc.keepalive_timeout_ms", 10_000),
                ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.so_reuseport", 0),
            ],
            maximum_concurrent_rpcs=limits.sessions,
        )
        handlers = {
            METHOD: grpc.stream_stream_rpc_method_handler(self._session),
            HEALTH: grpc.unary_unary_rpc_method_handler(self._health),
        }
        for path, handler in handlers.items():
            _, service, method = path.split("/")
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
        return server

    async def _steps_finished(self) -> None:
        """Wait until no session has a step under way, or the time of grace is over."""
        until = asyncio.get_running_loop().time() + GRACE_SECONDS
        while asyncio.get_running_loop().time() < until:
            sessions = list(self._sessions.values())
            if not any(session.busy for session in sessions) and await self._schedule.call(
                partial(self._none_in_step, [session.client for session in sessions])
            ):
                return
            await asyncio.sleep(POLL_SECONDS)

    def _none_in_step(self, clients: list[str]) -> bool:
        return not any(self._desk.in_step(client) for client in clients)

    async def _health(self, _: bytes, context: Any) -> bytes:
        await self._identity(context)
        return SERVING

    async def _identity(self, context: Any) -> Identity:
        try:
            return self._judged(context)
        except (RunError, ConfigError, ValueError, KeyError) as problem:
            await self._refuse(context, grpc.StatusCode.PERMISSION_DENIED, str(problem))

    def _judged(self, context: Any) -> Identity:
        """Return who is at the other end.

        Raises:
            RunError: its certificate was revoked, also since the session began.
        """
        return caller(context, self._revocations)

    async def _session(self, _: AsyncIterator[bytes], context: Any) -> None:
        identity = await self._identity(context)
        stream = Stream(context, self._wire, self._desk.limits, self.figures)
        try:
            hello = await stream.receive(HELLO_SECONDS)
            session = await self._agreed(identity, hello, context, stream)
            await self._alone(session)
            await self._spoken(session, 0 if hello is None else hello.number)
        except PplrError as problem:  # also of a state folder that is damaged, or of a full disk
            await self._refuse(context, status_of(problem), str(problem), identity)

    async def _agreed(self, identity: Identity, hello: Frame | None, context: Any, stream: Stream) -> Session:
        """Return the session of a party that means the same run as this server."""
        fields = None if hello is None else fields_of(hello)
        if not isinstance(fields, HelloFields):
            raise WireError(f"A session begins with a frame of kind {Kind.HELLO}.")
        if self._ending.is_set():
            raise NotYet("The trunk's server is going down.")
        if identity.role is Role.TRUNK:
            raise RunError("A trunk's server does not speak to another.")
        if identity.role is Role.COORDINATOR:
            names = _client_names(fields)
            await self._schedule.call(
                lambda: self._desk.open(
                    fields.agreement, fields.run, names, fresh=fields.fresh, forgotten=fields.forgotten
                )
            )
        else:
            self._desk.check(fields.agreement, fields.run)
        clients = self._desk.clients
        if clients is None:
            raise NotYet("No coordinator has begun a run on this server yet. Start it.")
        if identity.role is Role.CLIENT and identity.name not in clients:
            raise RunError(f"The run on this server has no client {identity.name!r}. Clients: {', '.join(clients)}.")
        try:
            contract = self._desk.contract(codec(fields.codec), fields.bucket)
        except ConfigError as problem:
            raise WireError(str(problem)) from problem
        return Session(identity, contract, stream, lambda: self._still(identity, context))

    def _still(self, identity: Identity, context: Any) -> None:
        if self._judged(context) != identity:
            raise RunError(f"This is no longer {identity}.")

    async def _alone(self, session: Session) -> None:
        """End an older session of the same party, and wait until nothing of it is left."""
        name = str(session.identity)
        while (before := self._sessions.get(name)) is not None:
            before.end(Replaced(f"Another session of {name} has begun."))
            try:
                async with asyncio.timeout(LEAVE_SECONDS):
                    await before.gone.wait()
            except TimeoutError:  # gRPC may leave a handler hanging whose stream it has closed itself
                log.warning("an older session of %s does not end: it is forgotten", name)
                self._schedule.leave(before, before.client)
                await self._cleared(before)
        self._sessions[name] = session

    async def _spoken(self, session: Session, number: int) -> None:
        """Let a session speak until it ends, and leave nothing of it behind."""
        name, client = str(session.identity), session.client
        self.figures.sessions.inc()
        log.info("%s is here", name)
        self._schedule.enter(session, client)
        try:
            round_number, steps = self._desk.stands(client or None)
            fields = {
                "width": session.contract.width,
                "round": round_number,
                "steps": steps,
                "limits": self._desk.limits.model_dump(),
            }
            await session.speak(self._schedule, Frame(Kind.WELCOME, number, fields))
        finally:
            self._schedule.leave(session, client)
            # a cancelled handler waits for nothing more; the next session of this party does
            asyncio.get_running_loop().create_task(self._cleared(session))

    async def _cleared(self, session: Session) -> None:
        """Leave nothing of a session behind; once, however often asked."""
        if session.cleared:
            return
        session.cleared = True
        if session.client:
            await self._schedule.call(lambda: self._desk.forget(session.client))
        if self._sessions.get(str(session.identity)) is session:
            del self._sessions[str(session.identity)]
        session.gone.set()
        self.figures.sessions.dec()
        log.info("%s is gone", session.identity)

    async def _refuse(
        self, context: Any, status: grpc.StatusCode, why: str, identity: Identity | None = None
    ) -> NoReturn:
        self.figures.refused.labels(status.name).inc()
        log.warning("%s: refused (%s): %s", identity or "somebody", status.name, why)
        await context.abort(status, why[:1000])
        raise AssertionError("abort raises")

    def _observe(self, jobs: list[Job], seconds: float) -> None:
        kind = jobs[0].kind.value
        self.figures.joint.labels(kind).observe(len(jobs))
        self.figures.seconds.labels(kind).observe(seconds)
        for job in jobs:
            self.figures.waited.labels(kind).observe(job.age)
        self.figures.waiting.set(self._schedule.waiting)


def _client_names(fields: HelloFields) -> list[str]:
    names = fields.clients or []
    if not names or len(set(names)) != len(names):
        raise WireError("A coordinator names its clients, each once.")
    try:
        return [Identity(Role.CLIENT, name).name for name in names]
    except ConfigError as problem:
        raise WireError(str(problem)) from problem
