"""A client's way to item vectors: its cache by digest, then the server, of which only what is missing is fetched."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock
from torch import Tensor

from pplr.catalogue.calls import SERVER, Calls
from pplr.catalogue.folder import VectorFolder
from pplr.catalogue.manifest import Agreement, Manifest
from pplr.errors import RunError
from pplr.models.hub import Kind, ModelFiles, cache_folder
from pplr.models.parts.settings import CataloguePlacement
from pplr.pki import Identity, Party
from pplr.storage import make_folder
from pplr.trunk.channel import secure_channel
from pplr.trunk.meter import Meter

AT_ONCE = 4
"""Chunks that are asked for at once, which hides the line's latency."""
LOCK = ".lock"


@dataclass(frozen=True)
class Fetched:
    """Item vectors from a server.

    Attributes:
        vectors: [items, width] float32.
        manifest: what the server said of them.
        meter: counts the bytes that travel for them.
    """

    vectors: Tensor
    manifest: Manifest
    meter: Meter

    def model(self, name: str) -> ServedModel:
        """Return the language model that has read the items, which this configuration calls `name`."""
        return ServedModel(
            name, Path(), Kind.ENCODER, self.manifest.weights, vectors=self.manifest.vectors, meter=self.meter
        )


@dataclass(frozen=True)
class ServedModel(ModelFiles):
    """A language model of which only the item vectors are here; it has no folder.

    Attributes:
        vectors: their digest.
        meter: counts the bytes that travel for them.
    """

    vectors: str = ""
    meter: Meter = field(default_factory=Meter, compare=False)

    @property
    def traffic(self) -> dict[str, Any]:
        """Bytes that have travelled, as `Meter.totals` gives them."""
        return self.meter.totals()


def vectors_folder(digest: str) -> Path:
    """Return where a client keeps the vectors of this digest."""
    return cache_folder() / "catalogue" / digest


def kept(digest: str, wanted: Agreement) -> Fetched | None:
    """Return the vectors of this digest from the cache, or None where they are not all there."""
    folder = VectorFolder.opened(vectors_folder(digest))
    if folder is None or folder.manifest.agreement != wanted or folder.missing():
        return None
    return Fetched(folder.vectors(), folder.manifest, Meter())


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
        calls = Calls(channel, placement, meter)
        manifest = agreed(calls.manifest(), wanted, placement.server)
        path = vectors_folder(manifest.vectors)
        make_folder(path)
        with FileLock(path / LOCK):  # one process fetches, others of this machine wait for it
            return Fetched(complete(calls, path, manifest, tell).vectors(), manifest, meter)


def agreed(manifest: Manifest, wanted: Agreement, server: str) -> Manifest:
    """Return a server's manifest, which has to be of the catalogue that is wanted.

    Raises:
        RunError: it is of another.
    """
    if differing := wanted.differences(manifest.agreement):
        raise RunError(
            f"The {SERVER} at {server} has vectors of another catalogue: {'; '.join(differing)} differ. Give both "
            "the same item table, data.cleaning and section [backbone]."
        )
    return manifest


def complete(
    calls: Calls, path: Path, manifest: Manifest, tell: Callable[[str], None] = lambda text: None
) -> VectorFolder:
    """Return the folder `path` with all vectors of a manifest; each chunk that it lacks is written as soon as it is there.

    Raises:
        RunError: the server is away, refuses, or sends something else.
        StorageError: the folder cannot be written.
    """
    folder = VectorFolder(path, manifest)
    folder.write_manifest()
    missing = folder.missing()
    if missing:
        tell(f"{len(missing)} of {len(manifest.chunks)} chunks of item vectors")
    pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="catalogue")
    try:
        for _ in pool.map(lambda number: folder.write_chunk(number, calls.chunk(folder.manifest, number)), missing):
            pass
    finally:
        calls.stop()
        pool.shutdown(cancel_futures=True)
    return folder
