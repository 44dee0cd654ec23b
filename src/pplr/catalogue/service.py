"""The catalogue's server on the network: gRPC with mutual TLS, two calls that read (docs/catalogue.md)."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import grpc
import grpc.aio
from pydantic import ValidationError

from pplr.catalogue.adapting import Adapting
from pplr.catalogue.chunks import sizes, unpacked
from pplr.catalogue.folder import VectorFolder
from pplr.catalogue.manifest import SERVICE, ChunkRequest, EncodeRequest, LearnRequest, Manifest
from pplr.catalogue.turns import CrowdedError, Turns
from pplr.errors import ConfigError, PplrError, RunError
from pplr.pki import Identity, Party, Revocations, Role
from pplr.trunk.door import caller, opened

REQUEST_BYTES = 1024
CALLS = 64
"""At once, of all clients together; whoever comes on top is told to wait."""
UPLOADS = 4
"""Calls with adapters that are taken in at once; others wait on the wire."""
UPLOAD_SECONDS = 60.0
"""How long the next chunk is waited for."""
ADAPTER_REQUEST_BYTES = 2**20
GRACE_SECONDS = 10.0

log = logging.getLogger("pplr.catalogue")

R = TypeVar("R", EncodeRequest, LearnRequest)


class CatalogueServer:
    """Serves the vectors of one folder, to coordinator and clients."""

    def __init__(self, folder: VectorFolder, certificates: Path, adapting: Adapting | None = None) -> None:
        """Make a server with the certificate of the trunk's server in the folder `certificates`.

        Where clients train adapters, `adapting` does the work for them.

        Raises:
            ConfigError: there is none.
            RunError: the list of revoked certificates cannot be trusted.
        """
        self._folder = folder
        self._party = Party.load(certificates, Identity(Role.TRUNK, "trunk"))
        self._revocations = Revocations(certificates)
        self._manifest = folder.manifest.model_dump_json().encode()
        self._adapting = adapting
        self._uploads = asyncio.Semaphore(UPLOADS)
        self._turns = Turns()

    async def serve(self, address: str, ready: Callable[[int], None] = lambda port: None) -> None:
        """Serve at host:port until SIGTERM or SIGINT; port 0 is any that is free, and `ready` is told which.

        Raises:
            ConfigError: the address cannot be had.
        """
        server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", self._most_received()),
                ("grpc.max_send_message_length", -1),
                ("grpc.max_concurrent_streams", 16),
                ("grpc.keepalive_time_ms", 20_000),
                ("grpc.keepalive_timeout_ms", 10_000),
                ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.so_reuseport", 0),
            ],
            maximum_concurrent_rpcs=CALLS,
        )
        handlers = {
            "Manifest": grpc.unary_unary_rpc_method_handler(self._tell),
            "Chunk": grpc.unary_unary_rpc_method_handler(self._give),
        }
        if self._adapting is not None:
            handlers["Encode"] = grpc.stream_unary_rpc_method_handler(self._encode)
            handlers["Learn"] = grpc.stream_stream_rpc_method_handler(self._learn)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        port = opened(server, address, self._party)
        ending = asyncio.Event()
        for name in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(name, ending.set)
        await server.start()
        ready(port)
        await ending.wait()
        await server.stop(GRACE_SECONDS)
        self._turns.close()

    async def _tell(self, _: bytes, context: Any) -> bytes:
        identity = await self._identity(context)
        log.info("%s asks for the manifest", identity)
        return self._manifest

    async def _give(self, asked: bytes, context: Any) -> bytes:
        identity = await self._identity(context)
        try:
            request = ChunkRequest.model_validate_json(asked)
        except ValidationError:
            await self._refuse(context, grpc.StatusCode.INVALID_ARGUMENT, "This is no request for a chunk.", identity)
        folder = self._folder_of(request.vectors)
        if folder is None or request.number >= len(folder.manifest.chunks):
            why = f"There is no chunk {request.number} of vectors {request.vectors[:12]} here. Ask for the manifest again."
            await self._refuse(context, grpc.StatusCode.NOT_FOUND, why, identity)
        try:
            return await asyncio.to_thread(folder.chunk_path(request.number).read_bytes)
        except OSError as problem:
            why = f"Chunk {request.number} cannot be read at the server: {problem.strerror}. Start the server again."
            await self._refuse(context, grpc.StatusCode.INTERNAL, why, identity)

    def _folder_of(self, vectors: str) -> VectorFolder | None:
        if vectors == self._folder.manifest.vectors:
            return self._folder
        return None if self._adapting is None else self._adapting.folder(vectors)

    def _most_received(self) -> int:
        """Return the bytes of the longest message: a chunk that zlib has not made shorter, or a request."""
        chunk = self._folder.manifest.chunk_bytes
        return REQUEST_BYTES if self._adapting is None else max(ADAPTER_REQUEST_BYTES, chunk + chunk // 100 + 1024)

    async def _encode(self, sent: AsyncIterator[bytes], context: Any) -> bytes:
        identity = await self._identity(context)
        try:
            async with self._turns.of(identity):
                _, (adapters,), work = await self._taken(sent, EncodeRequest, gradient=False)
                started = time.monotonic()
                manifest = await self._turns.work(work.encode, adapters)
            log.info("%s has the items read with its adapters: %.1f s", identity, time.monotonic() - started)
            return manifest.model_dump_json().encode()
        except PplrError as problem:
            await self._refuse(context, _status(problem), str(problem), identity)

    async def _learn(self, sent: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        identity = await self._identity(context)
        try:
            async with self._turns.of(identity):
                request, (adapters, gradient), work = await self._taken(sent, LearnRequest, gradient=True)
                started = time.monotonic()
                chunks = await self._turns.work(work.learn, request, adapters, gradient)
        except PplrError as problem:
            await self._refuse(context, _status(problem), str(problem), identity)
        log.info("%s has its adapters trained: %.1f s", identity, time.monotonic() - started)
        for chunk in chunks:
            yield chunk

    async def _taken(
        self, sent: AsyncIterator[bytes], kind: type[R], *, gradient: bool
    ) -> tuple[R, list[bytes], Adapting]:
        """Return the request in a call, and the numbers that follow it: adapters, and a gradient where there is one.

        Raises:
            RunError: it is no such request, or other chunks follow; nothing beyond what is allowed is unpacked.
        """
        manifest: Manifest = self._folder.manifest
        work = self._adapting
        if work is None:
            raise RunError("This server trains no adapters.")
        async with self._uploads:
            try:
                request = kind.model_validate_json(await _next(sent))
            except ValidationError as problem:
                raise RunError(f"This is no request for adapters: {problem.errors()[0]['msg']}.") from problem
            if request.vectors != manifest.vectors:
                raise RunError(
                    "This server has another model or catalogue than when the run began. Start the former one."
                )
            pieces = []
            for total in (work.adapter_bytes, *([manifest.bytes] if gradient else [])):
                raw = bytearray()
                for size in sizes(total, manifest.chunk_bytes):
                    raw += await asyncio.to_thread(unpacked, await _next(sent), size)
                pieces.append(bytes(raw))
            if await _next(sent):
                raise RunError("More was sent than adapters and what belongs to them.")
        return request, pieces, work

    async def _identity(self, context: Any) -> Identity:
        try:
            identity = caller(context, self._revocations)
        except (RunError, ConfigError, ValueError, KeyError) as problem:
            await self._refuse(context, grpc.StatusCode.PERMISSION_DENIED, str(problem))
        if identity.role is Role.TRUNK:
            await self._refuse(context, grpc.StatusCode.PERMISSION_DENIED, "A server does not fetch vectors.", identity)
        return identity

    async def _refuse(
        self, context: Any, status: grpc.StatusCode, why: str, identity: Identity | None = None
    ) -> NoReturn:
        log.warning("%s: refused (%s): %s", identity or "somebody", status.name, why)
        await context.abort(status, why[:1000])
        raise AssertionError("abort raises")


async def _next(sent: AsyncIterator[bytes]) -> bytes:
    """Return the next message, which is empty where there is none.

    Raises:
        RunError: nothing came for too long.
    """
    try:
        async with asyncio.timeout(UPLOAD_SECONDS):
            return await anext(sent, b"")
    except TimeoutError as problem:
        raise RunError(f"Nothing was sent for {UPLOAD_SECONDS:g} s, so the call was ended.") from problem


def _status(problem: PplrError) -> grpc.StatusCode:
    """Return the status of a call that was refused: too much at once, what was sent is wrong, or the server cannot do it."""
    if isinstance(problem, CrowdedError):
        return grpc.StatusCode.UNAVAILABLE  # clients ask again
    return grpc.StatusCode.INVALID_ARGUMENT if isinstance(problem, RunError) else grpc.StatusCode.INTERNAL
