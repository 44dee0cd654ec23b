"""Calls of a catalogue's server: each is made again while the server is away, and all of them give the same every time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest
from typing import TypeVar

import grpc
from pydantic import BaseModel

from pplr.catalogue.chunks import packed, sizes, unpacked
from pplr.catalogue.manifest import (
    CHUNK_METHOD,
    ENCODE_METHOD,
    LEARN_METHOD,
    MANIFEST_BYTES,
    MANIFEST_METHOD,
    ChunkRequest,
    EncodeRequest,
    LearnRequest,
    Manifest,
    parsed,
    sha256,
)
from pplr.errors import RunError
from pplr.models.parts.settings import CataloguePlacement
from pplr.trunk.channel import details_of, lasting
from pplr.trunk.meter import Meter

CALL_SECONDS = 60.0
WORK_SECONDS = 3_600.0
"""For a call in which the server reads the whole catalogue, and may read it for others before."""
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0
"""Seconds between two tries to reach a server, at first and at last."""
SERVER = "catalogue's server"

T = TypeVar("T")


class Calls:
    """Calls of one server, which is waited for while it is away; safe for threads."""

    def __init__(self, channel: grpc.Channel, placement: CataloguePlacement, meter: Meter) -> None:
        self._channel = channel
        self._placement = placement
        self._meter = meter
        self._away_since: float | None = None
        self._stopped = threading.Event()

    def manifest(self) -> Manifest:
        """Return the manifest of the server's vectors.

        Raises:
            RunError: the server is away, refuses, or what it says is no manifest.
        """
        return self._read_manifest(self._unary(MANIFEST_METHOD, b"", "manifest"))

    def chunk(self, manifest: Manifest, number: int) -> bytes:
        """Return a chunk, whose digest is the manifest's.

        Raises:
            RunError: the server is away, refuses, or sends another.
        """
        request = ChunkRequest(vectors=manifest.vectors, number=number).model_dump_json().encode()
        data = self._unary(CHUNK_METHOD, request, "chunk")
        expected = manifest.chunks[number]
        if sha256(data) != expected.digest:
            raise RunError(
                f"Chunk {number} of the item vectors from {self._placement.server} has the digest {sha256(data)[:12]}, and "
                f"its manifest says {expected.digest[:12]}: it was damaged at the server or on its way. Start "
                "`pplr catalogue serve` again, which mends what it has, then this."
            )
        return data

    def encode(self, manifest: Manifest, adapters: bytes) -> Manifest:
        """Return the manifest of the vectors that the model has with adapters, instead of those of `manifest`.

        Raises:
            RunError: the server is away, refuses, or what it says is no manifest.
        """
        request = EncodeRequest(vectors=manifest.vectors)
        parts = [("adapters", chunk) for chunk in packed(adapters, manifest.chunk_bytes)]

        def once() -> bytes:
            call = self._channel.stream_unary(ENCODE_METHOD)
            data: bytes = call(self._upward(request, parts), timeout=WORK_SECONDS)
            self._meter.count("down", "manifest", len(data))
            return data

        return self._read_manifest(self._tried(once))

    def learn(self, manifest: Manifest, request: LearnRequest, adapters: bytes, gradient: bytes) -> bytes:
        """Return the numbers of adapters that were trained along a gradient.

        Raises:
            RunError: the server is away, refuses, or sends something else.
        """
        size = manifest.chunk_bytes
        parts = [("adapters", chunk) for chunk in packed(adapters, size)]
        parts += [("gradient", chunk) for chunk in packed(gradient, size)]
        wanted = sizes(len(adapters), size)

        def once() -> bytes:
            found = bytearray()
            call = self._channel.stream_stream(LEARN_METHOD)
            answers = call(self._upward(request, parts), timeout=WORK_SECONDS)
            for expected, chunk in zip_longest(wanted, answers):
                if expected is None or chunk is None:
                    raise RunError(f"The {SERVER} at {self._placement.server} sent other adapters than it was given.")
                self._meter.count("down", "adapters", len(chunk))
                found += unpacked(chunk, expected)
            return bytes(found)

        return self._tried(once)

    def stop(self) -> None:
        """Wait for nothing any more: another call has failed."""
        self._stopped.set()

    def _read_manifest(self, data: bytes) -> Manifest:
        if len(data) > MANIFEST_BYTES:
            raise RunError(f"The {SERVER} at {self._placement.server} sent a manifest of {len(data):,} bytes.")
        return parsed(data)

    def _unary(self, method: str, request: bytes, kind: str) -> bytes:
        def once() -> bytes:
            self._meter.count("up", kind, len(request))
            data: bytes = self._channel.unary_unary(method)(request, timeout=CALL_SECONDS)
            self._meter.count("down", kind, len(data))
            return data

        return self._tried(once)

    def _upward(self, request: BaseModel, parts: Sequence[tuple[str, bytes]]) -> Iterator[bytes]:
        for kind, data in (("request", request.model_dump_json().encode()), *parts):
            self._meter.count("up", kind, len(data))
            yield data

    def _tried(self, once: Callable[[], T]) -> T:
        pause, server = FIRST_PAUSE, self._placement.server
        while True:
            try:
                answer = once()
            except grpc.RpcError as problem:
                why = lasting(problem, server, SERVER) or self._away_too_long(problem)
                if why is not None:
                    raise why from problem
            else:
                self._away_since = None
                return answer
            if self._stopped.wait(pause):
                raise RunError(f"The {SERVER} at {server} is not asked any more.")
            pause = min(2 * pause, LONGEST_PAUSE)

    def _away_too_long(self, problem: Exception) -> RunError | None:
        patience, now = self._placement.wait_seconds, time.monotonic()
        since = self._away_since = self._away_since or now
        if now - since <= patience:
            return None
        return RunError(
            f"The {SERVER} at {self._placement.server} has not been reached for {patience:g} s "
            f"({details_of(problem)}). Start it with `pplr catalogue serve`, then this again: what was fetched is kept."
        )
