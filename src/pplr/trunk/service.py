"""The trunk's server on the network: gRPC with mutual TLS, one stream of frames per session (docs/wire.md).

Everything a session does that is not allowed ends it with a status and a sentence; it touches no other session.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

import grpc
import grpc.aio
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from pplr.errors import ConfigError, PplrError, RunError
from pplr.pki import Identity, Party, Revocations, Role
from pplr.trunk.codecs import codec
from pplr.trunk.desk import Asked, Desk
from pplr.trunk.frames import Frame, Kind, WireError, decoded, encoded
from pplr.trunk.messages import CLIENTS, COORDINATORS, Contract, HelloFields, Request, fields_of, request
from pplr.trunk.schedule import Job, Schedule

METHOD = "/pplr.Trunk/Session"
HEALTH = "/grpc.health.v1.Health/Check"
SERVING = b"\x08\x01"
"""The message HealthCheckResponse {status: SERVING} of grpc.health.v1."""

HELLO_SECONDS = 20.0
GRACE_SECONDS = 30.0

log = logging.getLogger("pplr.trunk")


class Figures:
    """What Prometheus is told."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        options: Any = {"registry": self.registry}
        self.sessions = Gauge("pplr_trunk_sessions", "Sessions that are open.", **options)
        self.waiting = Gauge("pplr_trunk_waiting_requests", "Requests that wait.", **options)
        self.bytes = Counter("pplr_trunk_bytes", "Bytes of frames.", ["direction", "kind"], **options)
        self.refused = Counter("pplr_trunk_refused", "Sessions that were ended by an error.", ["status"], **options)
        self.joint = Histogram(
            "pplr_trunk_joint_clients", "Clients computed together.", ["kind"], buckets=(1, 2, 4, 8, 16, 32), **options
        )
        self.seconds = Histogram("pplr_trunk_compute_seconds", "Time to compute.", ["kind"], **options)
        self.waited = Histogram("pplr_trunk_wait_seconds", "Time from arrival to answer.", ["kind"], **options)


class Session:
    """One stream.

    Attributes:
        identity: whose it is, by its certificate.
        contract: what it agreed on.
    """

    def __init__(self, identity: Identity, contract: Contract, context: Any) -> None:
        self.identity = identity
        self.contract = contract
        self.context = context
        self.replaced = False
        self.idle = asyncio.Event()  # set while nothing of it is under way

    @property
    def client(self) -> str:
        """Name under which its requests are served."""
        return self.identity.name if self.identity.role is Role.CLIENT else ""


class TrunkServer:
    """Serves one desk."""

    def __init__(self, desk: Desk, folder: Path, *, joint_tokens: int) -> None:
        """Make a server with the certificate of the trunk in `folder`.

        Raises:
            ConfigError: there is none.
        """
        self._desk = desk
        self._party = Party.load(folder, Identity(Role.TRUNK, "trunk"))
        self._revocations = Revocations(folder)
        self._compute = ThreadPoolExecutor(1, thread_name_prefix="compute")
        self._wire = ThreadPoolExecutor(2, thread_name_prefix="wire")
        self.figures = Figures()
        self._schedule = Schedule(desk, self._compute, joint_tokens=joint_tokens, observe=self._observe)
        self._sessions: dict[str, Session] = {}
        self._ending = asyncio.Event()
        self._server = self._made()

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

    async def serve(self, address: str, ready: Callable[[int], None] = lambda port: None) -> None:
        """Serve at host:port until SIGTERM or SIGINT; port 0 is any that is free.

        Raises:
            ConfigError: the address cannot be had.
        """
        party = self._party
        credentials = grpc.ssl_server_credentials(
            [(party.key, party.certificate)], root_certificates=party.authority, require_client_auth=True
        )
        try:
            port = self._server.add_secure_port(address, credentials)
        except RuntimeError as problem:
            raise ConfigError(f"The server cannot listen at {address}: is another one there? Choose another port.") from problem
        loop = asyncio.get_running_loop()
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, self._ending.set)
        await self._server.start()
        scheduling = asyncio.create_task(self._schedule.run())
        scheduling.add_done_callback(lambda _: self._ending.set())
        ready(port)
        await self._ending.wait()
        log.info("going down: steps under way are finished, for %g s at most", GRACE_SECONDS)
        await self._server.stop(GRACE_SECONDS)
        if scheduling.done():
            scheduling.result()  # what broke it
        scheduling.cancel()
        self._compute.shutdown()
        self._wire.shutdown()

    async def _health(self, _: bytes, context: Any) -> bytes:
        await self._identity(context)
        return SERVING

    async def _identity(self, context: Any) -> Identity:
        try:
            (certificate,) = context.auth_context()["x509_pem_cert"]
            return self._revocations.judged(certificate)
        except (RunError, ValueError, KeyError) as problem:
            await self._refuse(context, grpc.StatusCode.PERMISSION_DENIED, str(problem))

    async def _session(self, _: AsyncIterator[bytes], context: Any) -> None:
        identity = await self._identity(context)
        if self._ending.is_set():
            await self._refuse(context, grpc.StatusCode.UNAVAILABLE, "The trunk's server is going down.")
        try:
            hello = await self._received(context, HELLO_SECONDS)
            session = await self._agreed(identity, hello, context)
        except RunError as problem:
            await self._refuse(context, _status(problem), str(problem))
        name = str(identity)
        before, self._sessions[name] = self._sessions.get(name), session
        if before is not None:
            before.replaced = True
            before.context.cancel()
        self.figures.sessions.inc()
        log.info("%s is here", identity)
        self._schedule.enter(session, session.client)
        try:
            await self._speak(session, hello)
        finally:
            self.figures.sessions.dec()
            self._schedule.leave(session, session.client)
            if self._sessions.get(name) is session:
                del self._sessions[name]
            if session.client:
                await self._calm(self._compute, self._desk.forget, session.client)
            log.info("%s is gone", identity)

    async def _agreed(self, identity: Identity, hello: Frame, context: Any) -> Session:
        fields = fields_of(hello)
        if not isinstance(fields, HelloFields):
            raise WireError(f"A session begins with a frame of kind {Kind.HELLO}, not {hello.kind}.")
        if identity.role is Role.COORDINATOR:
            if not fields.clients or len(set(fields.clients)) != len(fields.clients):
                raise WireError("A coordinator names its clients, each once.")
            for name in fields.clients:
                Identity(Role.CLIENT, name)
            opening = (self._desk.open, fields.agreement, fields.clients)
            await self._calm(self._compute, lambda: opening[0](opening[1], opening[2], fresh=fields.fresh))
        elif identity.role is Role.CLIENT:
            self._desk.check(fields.agreement)
            if self._desk.clients is None:
                raise NotYet("No coordinator has begun a run on this server yet.")
            if identity.name not in self._desk.clients:
                raise RunError(f"The run on this server has no client {identity.name!r}. Clients: {', '.join(self._desk.clients)}.")
        else:
            raise RunError("A trunk's server does not speak to another.")
        try:
            contract = self._desk.contract(codec(fields.codec), fields.bucket)
        except ConfigError as problem:
            raise WireError(str(problem)) from problem
        return Session(identity, contract, context)

    async def _speak(self, session: Session, hello: Frame) -> None:
        """Take requests and give answers, in order, until the client leaves."""
        round_number, steps = self._desk.stands(session.client or None)
        limits = self._desk.limits
        fields = {"width": session.contract.width, "round": round_number, "steps": steps, "limits": limits.model_dump()}
        await self._send(session, Frame(Kind.WELCOME, hello.number, fields))
        under_way: deque[asyncio.Future[Any]] = deque()
        room = asyncio.Semaphore(limits.waiting)
        arrived = asyncio.Event()
        writing = asyncio.create_task(self._write(session, under_way, room, arrived))
        reading = asyncio.create_task(self._read(session, under_way, room, arrived))
        ending = asyncio.create_task(self._ended(session, under_way))
        tasks = {writing, reading, ending}
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if reading in done and reading.exception() is None:
                arrived.set()
                await writing
                return
            await next(iter(done))
        except (RunError, PplrError) as problem:
            await self._refuse(session.context, _status(problem), str(problem))
        except asyncio.CancelledError:
            if session.replaced:
                log.info("%s began another session", session.identity)
            raise
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(
        self, session: Session, under_way: deque[asyncio.Future[Any]], room: asyncio.Semaphore, arrived: asyncio.Event
    ) -> None:
        limits = self._desk.limits
        while True:
            await room.acquire()  # a client that asks faster than it is served waits on the wire
            frame = await self._received(session.context, limits.idle_seconds, under_way, end=True)
            if frame is None:
                under_way.append(_finished(None))
                arrived.set()
                return
            allowed = COORDINATORS if session.identity.role is Role.COORDINATOR else CLIENTS
            if frame.kind not in allowed:
                raise WireError(f"A request of kind {frame.kind} is not for {session.identity}.")
            asked: Request = await self._calm(self._wire, request, frame, session.contract)
            self._revocations_hold(session)
            under_way.append(self._schedule.submit(session, Asked(session.client, asked, session.contract)))
            self.figures.waiting.set(self._schedule.waiting)
            arrived.set()

    async def _write(
        self, session: Session, under_way: deque[asyncio.Future[Any]], room: asyncio.Semaphore, arrived: asyncio.Event
    ) -> None:
        while True:
            while not under_way:
                arrived.clear()
                await arrived.wait()
            answer = await under_way[0]
            if answer == "end":
                return
            if isinstance(answer, RunError):
                raise answer
            if answer is not None:
                await self._send(session, answer)
            under_way.popleft()
            room.release()

    async def _ended(self, session: Session, under_way: deque[asyncio.Future[Any]]) -> None:
        """Wait until the server goes down and nothing of this session is under way."""
        await self._ending.wait()
        while under_way or (session.client and self._desk.held(session.client)[0]):
            await asyncio.sleep(0.05)
        raise NotYet("The trunk's server is going down.")

    def _revocations_hold(self, session: Session) -> None:
        """Raise RunError where the session's certificate has been revoked since it began."""
        (certificate,) = session.context.auth_context()["x509_pem_cert"]
        self._revocations.judged(certificate)

    async def _received(
        self, context: Any, seconds: float, under_way: Sequence[object] = (), *, end: bool = False
    ) -> Any:
        while True:
            try:
                data = await asyncio.wait_for(asyncio.shield(_once(context)), seconds)
                break
            except TimeoutError:
                if not under_way:
                    raise Idle(f"Nothing was said for {seconds:g} s, so the session was ended.") from None
        context.pplr_read = None
        if data is grpc.aio.EOF:
            if end:
                return None
            raise WireError("The session ended before it began.")
        frame = await self._calm(self._wire, decoded, data, self._desk.limits.frame_bytes)
        self.figures.bytes.labels("up", frame.kind.value).inc(len(data))
        return frame

    async def _send(self, session: Session, frame: Frame) -> None:
        data = await self._calm(self._wire, encoded, frame)
        await session.context.write(data)
        self.figures.bytes.labels("down", frame.kind.value).inc(len(data))

    async def _calm(self, executor: ThreadPoolExecutor, work: Callable[..., Any], *arguments: object) -> Any:
        return await asyncio.get_running_loop().run_in_executor(executor, work, *arguments)

    async def _refuse(self, context: Any, status: grpc.StatusCode, why: str) -> NoReturn:
        self.figures.refused.labels(status.name).inc()
        log.warning("refused (%s): %s", status.name, why)
        await context.abort(status, why[:1000])
        raise AssertionError("abort raises")

    def _observe(self, jobs: list[Job], seconds: float) -> None:
        kind = jobs[0].kind.value
        self.figures.joint.labels(kind).observe(len(jobs))
        self.figures.seconds.labels(kind).observe(seconds)
        now = asyncio.get_running_loop().time()
        for job in jobs:
            self.figures.waited.labels(kind).observe(max(0.0, now - job.since))
        self.figures.waiting.set(self._schedule.waiting)


class NotYet(RunError):
    """Not now; later."""


class Idle(RunError):
    """Nothing happened for too long."""


def _status(problem: Exception) -> grpc.StatusCode:
    if isinstance(problem, NotYet):
        return grpc.StatusCode.UNAVAILABLE
    if isinstance(problem, Idle):
        return grpc.StatusCode.DEADLINE_EXCEEDED
    if isinstance(problem, WireError):
        return grpc.StatusCode.INVALID_ARGUMENT
    return grpc.StatusCode.FAILED_PRECONDITION
