"""The server's work for clients that train adapters: it reads the items with them, and trains them along a gradient.

It remembers nothing of a client between two calls: the same call gives the same answer, so that whoever was interrupted asks
again. Vectors that were made once are kept by the digest of their adapters.
"""

from __future__ import annotations

import torch

from pplr.catalogue.chunks import named_factors, numbers, packed, raw_bytes
from pplr.catalogue.folder import VectorFolder, prune
from pplr.catalogue.manifest import LearnRequest, Manifest, ServedAdapters, sha256
from pplr.catalogue.stored import stored
from pplr.errors import RunError
from pplr.models.hub import ModelFiles
from pplr.models.item_reader import ItemReader, Lesson
from pplr.storage import make_folder

ADAPTED = "adapted"
"""Folder, in that of the vectors without adapters, of vectors with them."""


class Adapting:
    """A language model with adapters over one catalogue."""

    def __init__(
        self, reader: ItemReader, files: ModelFiles, base: VectorFolder, adapters: ServedAdapters, keep: int
    ) -> None:
        """Read items with `reader`, whose model `files` are; in the folder `base`, keep the newest `keep` vectors."""
        self._reader = reader
        self._files = files
        self._base = base
        self._adapters = adapters
        self._keep = keep
        self._parent = base.path / ADAPTED
        make_folder(self._parent)
        found = (VectorFolder.opened(path) for path in self._parent.iterdir())
        self._by_digest = {folder.manifest.vectors: folder for folder in found if folder is not None}

    @property
    def adapter_bytes(self) -> int:
        """Of all factors, before they are compressed."""
        return self._adapters.bytes

    def folder(self, vectors: str) -> VectorFolder | None:
        """Return the folder with the vectors of a digest, or None where there is none."""
        folder = self._by_digest.get(vectors)
        if folder is not None:
            folder.used()
        return folder

    def encode(self, raw: bytes) -> Manifest:
        """Return the manifest of the vectors with the adapters whose numbers are `raw`, which are kept now.

        Raises:
            RunError: a number is not finite.
            StorageError: the disk is full.
        """
        adapters = named_factors(raw, self._adapters)
        path = self._parent / sha256(raw)
        folder = VectorFolder.opened(path)
        if folder is None or folder.missing():
            vectors = self._reader.encode(adapters)
            own = self._base.manifest
            folder = stored(path, vectors, own.agreement, self._files, own.chunk_bytes)
        folder.used()
        prune(self._parent, self._keep)
        self._by_digest = {vectors: kept for vectors, kept in self._by_digest.items() if kept.path.is_dir()}
        self._by_digest[folder.manifest.vectors] = folder
        return folder.manifest

    def learn(self, request: LearnRequest, raw: bytes, gradient: bytes) -> list[bytes]:
        """Return the trained adapters, in chunks.

        Raises:
            RunError: a number is not finite, or a factor is unknown.
        """
        adapters = named_factors(raw, self._adapters)
        if unknown := set(request.frozen) - adapters.keys():
            raise RunError(f"There is no factor {min(unknown)!r} in the adapters of this server.")
        own = self._base.manifest
        lesson = Lesson(request.rate, request.warmup, request.weight_decay, request.clip_norm, request.seed)
        trained = self._reader.learn(
            adapters,
            frozenset(request.frozen),
            numbers(gradient).view(own.items, own.width),
            lesson,
        )
        flat = torch.cat([trained[factor.name].reshape(-1) for factor in self._adapters.factors])
        return list(packed(raw_bytes(flat), own.chunk_bytes))
