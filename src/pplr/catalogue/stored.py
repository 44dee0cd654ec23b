"""Item vectors that were computed, put into a folder from which they are served."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from pplr.catalogue.chunks import packed, raw_bytes
from pplr.catalogue.folder import VectorFolder
from pplr.catalogue.manifest import Agreement, Chunk, Manifest, ServedAdapters, sha256
from pplr.models.hub import ModelFiles
from pplr.storage import write_folder


def stored(
    path: Path,
    vectors: Tensor,
    made_from: Agreement,
    files: ModelFiles,
    chunk_bytes: int,
    adapters: ServedAdapters | None = None,
) -> VectorFolder:
    """Write vectors [items, width] into a folder, whole or not at all, and return it.

    `adapters` are those that clients may train, starting from these vectors.

    Raises:
        StorageError: the disk is full or not writable.
    """
    raw = raw_bytes(vectors)
    chunks = list(packed(raw, chunk_bytes))
    manifest = Manifest(
        agreement=made_from,
        model=files.name,
        weights=files.digest,
        width=vectors.shape[1],
        chunk_bytes=chunk_bytes,
        vectors=sha256(raw),
        chunks=tuple(Chunk(digest=sha256(chunk), size=len(chunk)) for chunk in chunks),
        adapters=adapters,
    )

    def fill(target: Path) -> None:
        new = VectorFolder(target, manifest)
        new.write_manifest()
        for number, chunk in enumerate(chunks):
            new.write_chunk(number, chunk)

    write_folder(path, fill)
    return VectorFolder(path, manifest)
