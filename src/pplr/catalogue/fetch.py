"""A client's way to item vectors: its cache by digest, then the server, of which only what is missing is fetched."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from filelock import FileLock
from torch import Tensor

from pplr.catalogue.folder import VectorFolder
from pplr.catalogue.manifest import (
    CHUNK_METHOD,
    MANIFEST_BYTES,
    MANIFEST_METHOD,
    Agreement,
    ChunkRequest,
    Manifest,
    parsed,
    sha256,
)
from pplr.errors import RunError
from pplr.models.hub import Kind, ModelFiles, cache_folder
from pplr.models.parts.settings import CataloguePlacement
from pplr.pki import Identity, Party
from pplr.storage import make_folder
from pplr.trunk.channel import details_of, lasting, secure_channel
from pplr.trunk.meter import Meter

AT_ONCE = 4
"""Chunks that are asked for at once, which hides the line's latency."""
CALL_SECONDS = 60.0
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0
"""Seconds between two tries to reach a server, at first and at last."""
SERVER = "catalogue's server"
LOCK = ".lock"


@dataclass(frozen=True)
class Fetched:
    """Item vectors from a server.

    Attributes:
        vectors: [items, width] float32.
        manifest: what the server said of them.
        traffic: bytes that have travelled for them, as `Meter.totals` gives them.
    """

    vectors: Tensor
    manifest: Manifest
    traffic: dict[str, Any]

    def model(self, name: str) -> ServedModel:
        """Return the language model that has read the items, which this configuration calls `name`."""
        return ServedModel(
            name, Path(), Kind.ENCODER, self.manifest.weights, vectors=self.manifest.vectors, traffic=self.traffic
        )


@dataclass(frozen=True)
class ServedModel(ModelFiles):
    """A language model of which only the item vectors are here; it has no folder.

    Attributes:
        vectors: their digest.
        traffic: bytes that have travelled for them.
    """

    vectors: str = ""
    traffic: dict[str, Any] = field(default_factory=dict)


def vectors_folder(digest: str) -> Path:
    """Return where a client keeps the vectors of this digest."""
    return cache_folder() / "catalogue" / digest


def kept(digest: str, wanted: Agreement) -> Fetched | None:
    """Return the vectors of this digest from the cache, or None where they are not all there."""
    folder = VectorFolder.opened(vectors_folder(digest))
    if folder is None or folder.manifest.agreement != wanted or folder.missing():
        return None
    return Fetched(folder.vectors(), folder.manifest, Meter().totals())


def fetch(
    placement: CataloguePlacement,
    identity: Identity,
    wanted: Agreement,
    tell: Callable[[str], None] = lambda text: None,
) -> Fetched:
    """Return the item vectors of a server, of which only what is not in the cache yet travels.

    Raises:
        ConfigError: this party has no certificate.
        RunError: the server is away or refuses, has other vectors than are wanted, or sends something else.
        StorageError: the cache cannot be written.
    """
    party = Party.load(Path(placement.certificates), identity)
    meter = Meter()
    with secure_channel(placement.server, party) as channel:
        calls = _Calls(channel, placement, meter)
        manifest = _agreed(calls.manifest(), wanted, placement.server)
        path = vectors_folder(manifest.vectors)
        make_folder(path)
        with FileLock(path / LOCK):  # one process fetches, others of this machine wait for it
            folder = VectorFolder(path, manifest)
            folder.write_manifest()
            missing = folder.missing()
            if missing:
                tell(f"{len(missing)} of {len(manifest.chunks)} chunks of item vectors from {placement.server}")
            _fetch_chunks(calls, folder, missing)
            return Fetched(folder.vectors(), manifest, meter.totals())


def _agreed(manifest: Manifest, wanted: Agreement, server: str) -> Manifest:
    if differing := wanted.differences(manifest.agreement):
        raise RunError(
            f"The {SERVER} at {server} has vectors of another catalogue: {'; '.join(differing)} differ. Give both "
            "the same item table, data.cleaning, backbone.attributes and backbone.item_tokens."
        )
    return manifest


def _fetch_chunks(calls: _Calls, folder: VectorFolder, missing: list[int]) -> None:
    """Fetch chunks, and write each as soon as it is there."""
    pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="catalogue")
    try:
        for _ in pool.map(lambda number: folder.write_chunk(number, calls.chunk(folder.manifest, number)), missing):
            pass
    finally:
        calls.stop()
        pool.shutdown(cancel_futures=True)


class _Calls:
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
        data = self._answer(MANIFEST_METHOD, b"", "manifest")
        if len(data) > MANIFEST_BYTES:
            raise RunError(f"The {SERVER} at {self._placement.server} sent a manifest of {len(data):,} bytes.")
        return parsed(data)

    def chunk(self, manifest: Manifest, number: int) -> bytes:
        """Return a chunk, whose digest is the manifest's.

        Raises:
            RunError: the server is away, refuses, or sends another.
        """
        request = ChunkRequest(vectors=manifest.vectors, number=number).model_dump_json().encode()
        data = self._answer(CHUNK_METHOD, request, "chunk")
        expected = manifest.chunks[number]
        if sha256(data) != expected.digest:
            raise RunError(
                f"Chunk {number} of the item vectors from {self._placement.server} has the digest {sha256(data)[:12]}, and "
                f"its manifest says {expected.digest[:12]}: it was damaged at the server or on its way. Start "
                "`pplr catalogue serve` again, which mends what it has, then this."
            )
        return data

    def stop(self) -> None:
        """Wait for nothing any more: another call has failed."""
        self._stopped.set()

    def _answer(self, method: str, request: bytes, kind: str) -> bytes:
        pause, server = FIRST_PAUSE, self._placement.server
        while True:
            self._meter.count("up", kind, len(request))
            try:
                data: bytes = self._channel.unary_unary(method)(request, timeout=CALL_SECONDS)
            except grpc.RpcError as problem:
                why = lasting(problem, server, SERVER) or self._away_too_long(problem)
                if why is not None:
                    raise why from problem
            else:
                self._away_since = None
                self._meter.count("down", kind, len(data))
                return data
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
