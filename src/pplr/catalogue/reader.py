"""A client's item reader where the language model is at the catalogue's server (`models.item_reader.ItemReader`)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from filelock import FileLock
from torch import Tensor

from pplr.catalogue.calls import SERVER, Calls
from pplr.catalogue.chunks import named_factors, raw_bytes
from pplr.catalogue.fetch import LOCK, complete
from pplr.catalogue.folder import VectorFolder, prune
from pplr.catalogue.manifest import LearnRequest, Manifest, ServedAdapters, sha256
from pplr.errors import RunError
from pplr.models.hub import cache_folder
from pplr.models.item_reader import Lesson
from pplr.models.layout import ParameterSpec
from pplr.models.lora import AdapterSettings
from pplr.models.parts.settings import CataloguePlacement
from pplr.pki import Identity, Party
from pplr.storage import make_folder
from pplr.trunk.channel import secure_channel
from pplr.trunk.meter import Meter

LOG = logging.getLogger("pplr.silo")

KEPT = 24
"""Vectors of adapters that a client keeps: of a few clients in one process, before and after their mixing."""


class RemoteReader:
    """Asks a server to read the items, and to train the adapters; vectors are fetched as those without adapters are."""

    def __init__(self, placement: CataloguePlacement, identity: Identity, manifest: Manifest, meter: Meter) -> None:
        """Ask the server of `placement`, whose vectors without adapters have this manifest.

        Raises:
            RunError: the server trains no adapters.
        """
        if manifest.adapters is None:
            raise RunError(f"The {SERVER} at {placement.server} trains no adapters. Set backbone.adapters there too.")
        self._placement = placement
        self._identity = identity
        self._manifest = manifest
        self._meter = meter
        self._adapters: ServedAdapters = manifest.adapters
        self._specs = tuple(factor.spec for factor in manifest.adapters.factors)

    @property
    def settings(self) -> AdapterSettings:
        """Of the adapters, with the maps that are adapted."""
        return self._adapters.settings

    @property
    def specs(self) -> tuple[ParameterSpec, ...]:
        """The adapters' parameters, in the order in which they travel."""
        return self._specs

    def encode(self, adapters: Mapping[str, Tensor]) -> Tensor:
        """Return the vectors [items, hidden] of all items with these adapters.

        Raises:
            RunError: the server is away, refuses, or sends something else.
            StorageError: the cache cannot be written.
        """
        raw = self._raw(adapters)
        parent = cache_folder() / "catalogue" / "adapted"
        path = parent / sha256(self._manifest.vectors.encode() + raw)
        make_folder(path)
        with FileLock(path / LOCK):
            folder = VectorFolder.opened(path)
            if folder is None or not self._fits(folder.manifest) or folder.missing():
                folder = self._fetched(path, raw)
            folder.used()
            vectors = folder.vectors()
        prune(parent, KEPT)
        return vectors

    def learn(
        self, adapters: Mapping[str, Tensor], frozen: frozenset[str], gradient: Tensor, lesson: Lesson
    ) -> Mapping[str, Tensor]:
        """Return the adapters after one pass of the server over all items.

        Raises:
            RunError: the server is away, refuses, or sends something else.
        """
        request = LearnRequest(
            vectors=self._manifest.vectors,
            frozen=tuple(sorted(frozen)),
            rate=lesson.rate,
            warmup=lesson.warmup,
            weight_decay=lesson.weight_decay,
            clip_norm=lesson.clip_norm,
            seed=lesson.seed,
        )
        given, wanted = self._raw(adapters), raw_bytes(gradient)
        LOG.info("out  gradient of all item vectors, %s bytes, sha256 %s", f"{len(wanted):,}", sha256(wanted)[:16])
        with secure_channel(self._placement.server, self._party()) as channel:
            trained = Calls(channel, self._placement, self._meter).learn(self._manifest, request, given, wanted)
        return named_factors(trained, self._adapters)

    def _fetched(self, path: Path, raw: bytes) -> VectorFolder:
        with secure_channel(self._placement.server, self._party()) as channel:
            calls = Calls(channel, self._placement, self._meter)
            manifest = calls.encode(self._manifest, raw)
            if not self._fits(manifest):
                raise RunError(
                    f"The {SERVER} at {self._placement.server} has another model or catalogue than when this run began. "
                    "Start it with the former ones, or start a new run."
                )
            return complete(calls, path, manifest)

    def _fits(self, manifest: Manifest) -> bool:
        own = self._manifest
        return (manifest.agreement, manifest.weights, manifest.width) == (own.agreement, own.weights, own.width)

    def _party(self) -> Party:
        return Party.load(Path(self._placement.certificates), self._identity)

    def _raw(self, adapters: Mapping[str, Tensor]) -> bytes:
        return raw_bytes(torch.cat([adapters[spec.name].detach().cpu().reshape(-1) for spec in self._specs]))
