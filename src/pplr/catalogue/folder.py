"""A folder of item vectors on disk, at a server or a client: a manifest, and its chunks by number.

    FOLDER/manifest.json
    FOLDER/000000.chunk, 000001.chunk, ...

A client's folder may lack chunks: those are what it still has to fetch. A file is whole or not there.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from torch import Tensor

from pplr.catalogue.chunks import assembled
from pplr.catalogue.manifest import Manifest, parsed, sha256
from pplr.errors import RunError
from pplr.storage import make_folder, write_bytes

MANIFEST = "manifest.json"
IDLE_SECONDS = 600.0
"""What was used since is not deleted: somebody may still read it."""


class VectorFolder:
    """One folder, with the manifest that is in force."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        """Use the chunks in a folder as far as they are those of `manifest`."""
        self.path = path
        self.manifest: Manifest = manifest

    @classmethod
    def opened(cls, path: Path) -> VectorFolder | None:
        """Return the folder with the manifest in it, or None where there is none that can be read."""
        try:
            return cls(path, parsed((path / MANIFEST).read_bytes()))
        except (OSError, RunError):
            return None

    def write_manifest(self) -> None:
        """Write the manifest.

        Raises:
            StorageError: the disk is full or not writable.
        """
        make_folder(self.path)
        write_bytes(self.path / MANIFEST, self.manifest.model_dump_json().encode())

    def write_chunk(self, number: int, chunk: bytes) -> None:
        """Write a chunk.

        Raises:
            StorageError: the disk is full or not writable.
        """
        write_bytes(self.chunk_path(number), chunk)

    def chunk_path(self, number: int) -> Path:
        """Return where a chunk is."""
        return self.path / f"{number:06}.chunk"

    def used(self) -> None:
        """Note that the folder was used now."""
        with suppress(OSError):  # somebody has deleted it meanwhile
            os.utime(self.path)

    def missing(self) -> list[int]:
        """Return the numbers of chunks that are not there as the manifest says."""
        return [number for number, chunk in enumerate(self._chunks()) if chunk is None]

    def vectors(self) -> Tensor:
        """Return the vectors [items, width].

        Raises:
            RunError: they are not all there, or not what the manifest says.
        """
        return assembled(self.manifest, (b"" if chunk is None else chunk for chunk in self._chunks()))

    def _chunks(self) -> Iterator[bytes | None]:
        for number, expected in enumerate(self.manifest.chunks):
            try:
                content = self.chunk_path(number).read_bytes()
            except OSError:
                yield None
                continue
            yield content if sha256(content) == expected.digest else None


def prune(parent: Path, keep: int) -> None:
    """Delete the folders in `parent` but the `keep` that were used last, and what was used in the last ten minutes."""
    before = time.time() - IDLE_SECONDS
    folders = sorted((p for p in parent.iterdir() if p.is_dir()), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in folders[keep:]:
        if path.stat().st_mtime < before:
            shutil.rmtree(path, ignore_errors=True)
