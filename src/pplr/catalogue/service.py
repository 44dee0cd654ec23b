"""The catalogue's server on the network: gRPC with mutual TLS, two calls that read (docs/catalogue.md)."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import grpc
import grpc.aio
from pydantic import ValidationError

from pplr.catalogue.folder import VectorFolder
from pplr.catalogue.manifest import SERVICE, ChunkRequest
from pplr.errors import ConfigError, RunError
from pplr.pki import Identity, Party, Revocations, Role
from pplr.trunk.door import caller, opened

REQUEST_BYTES = 1024
CALLS = 64
"""At once, of all clients together; whoever comes on top is told to wait."""
GRACE_SECONDS = 10.0

log = logging.getLogger("pplr.catalogue")


class CatalogueServer:
    """Serves the vectors of one folder, to coordinator and clients."""

    def __init__(self, folder: VectorFolder, certificates: Path) -> None:
        """Make a server with the certificate of the trunk's server in the folder `certificates`.

        Raises:
            ConfigError: there is none.
            RunError: the list of revoked certificates cannot be trusted.
        """
        self._folder = folder
        self._party = Party.load(certificates, Identity(Role.TRUNK, "trunk"))
        self._revocations = Revocations(certificates)
        self._manifest = folder.manifest.model_dump_json().encode()

    async def serve(self, address: str, ready: Callable[[int], None] = lambda port: None) -> None:
        """Serve at host:port until SIGTERM or SIGINT; port 0 is any that is free, and `ready` is told which.

        Raises:
            ConfigError: the address cannot be had.
        """
        server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", REQUEST_BYTES),
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
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        port = opened(server, address, self._party)
        ending = asyncio.Event()
        for name in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(name, ending.set)
        await server.start()
        ready(port)
        await ending.wait()
        await server.stop(GRACE_SECONDS)

    async def _tell(self, _: bytes, context: Any) -> bytes:
        identity = await self._identity(context)
        log.info("%s asks for the manifest", identity)
        return self._manifest

    async def _give(self, asked: bytes, context: Any) -> bytes:
        identity = await self._identity(context)
        manifest = self._folder.manifest
        try:
            request = ChunkRequest.model_validate_json(asked)
        except ValidationError:
            await self._refuse(context, grpc.StatusCode.INVALID_ARGUMENT, "This is no request for a chunk.", identity)
        if request.vectors != manifest.vectors or request.number >= len(manifest.chunks):
            why = f"There is no chunk {request.number} of vectors {request.vectors[:12]} here. Ask for the manifest again."
            await self._refuse(context, grpc.StatusCode.NOT_FOUND, why, identity)
        try:
            return await asyncio.to_thread(self._folder.chunk_path(request.number).read_bytes)
        except OSError as problem:
            why = f"Chunk {request.number} cannot be read at the server: {problem.strerror}. Start the server again."
            await self._refuse(context, grpc.StatusCode.INTERNAL, why, identity)

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
