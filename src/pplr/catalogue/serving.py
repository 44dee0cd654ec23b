"""From a configuration and a state folder to a catalogue's server that is ready to serve."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from pplr.backbones import choose_device, item_reader, item_vectors
from pplr.catalogue.adapting import Adapting
from pplr.catalogue.folder import VectorFolder
from pplr.catalogue.manifest import FLOAT_BYTES, LEAST_CHUNK, MOST_CHUNK, Factor, ServedAdapters, agreement, sha256
from pplr.catalogue.service import CatalogueServer
from pplr.catalogue.stored import stored
from pplr.config import Config
from pplr.data.load import load_catalogue
from pplr.errors import ConfigError
from pplr.models.hub import resolve
from pplr.models.item_reader import ItemReader
from pplr.models.parts.settings import CataloguePlacement
from pplr.models.settings import SequenceSettings

CHUNK_BYTES = 2**20
KEEP = 32
"""Vectors of adapters that stay on the server's disk: two for each of a few clients."""


def open_server(
    config: Config,
    state: Path,
    certificates: Path | None,
    chunk_bytes: int = CHUNK_BYTES,
    keep: int = KEEP,
    tell: Callable[[str], None] = lambda text: None,
) -> CatalogueServer:
    """Return a server with the item vectors that `config` describes, computed unless `state` has them already.

    Raises:
        ConfigError: there is nothing to serve, no certificate, or chunks cannot be so large.
        DataError, ModelError: the item table or the language model cannot be used.
        StorageError: the state cannot be written.
    """
    placement, settings = catalogue_settings(config)
    if not LEAST_CHUNK <= chunk_bytes <= MOST_CHUNK or chunk_bytes % FLOAT_BYTES:
        raise ConfigError(
            f"--chunk-bytes {chunk_bytes} cannot be: give a multiple of {FLOAT_BYTES} from {LEAST_CHUNK} to {MOST_CHUNK:,}."
        )
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    server_certificates = certificates or Path(placement.certificates)
    catalogue = load_catalogue(config.data, Path())
    files = resolve(settings.model, progress=tell)
    wanted = agreement(settings, catalogue)
    path = state / sha256(f"{files.digest} {chunk_bytes} {wanted.model_dump_json()}".encode())[:32]
    folder = VectorFolder.opened(path)
    device = choose_device(config.device)
    reader = item_reader(settings, catalogue, files, device) if settings.adapters else None
    if folder is None or folder.missing():
        tell(f"Reading {len(catalogue):,} items with {files.name}.")
        vectors = item_vectors(settings, catalogue, files, device)
        folder = stored(path, vectors, wanted, files, chunk_bytes, None if reader is None else served_adapters(reader))
    manifest = folder.manifest
    size = sum(chunk.size for chunk in manifest.chunks)
    tell(
        f"{manifest.items:,} vectors of {manifest.width} numbers, {size / 1e6:,.1f} MB in {len(manifest.chunks)} chunks, "
        f"digest {manifest.vectors[:12]}."
    )
    adapting = None
    if reader is not None and manifest.adapters is not None:
        adapting = Adapting(reader, files, folder, manifest.adapters, keep)
    return CatalogueServer(folder, server_certificates, adapting)


def catalogue_settings(config: Config) -> tuple[CataloguePlacement, SequenceSettings]:
    """Return the placement and the backbone of a configuration whose item vectors a server has.

    Raises:
        ConfigError: it is no such configuration.
    """
    placement, settings = config.placement, config.backbone
    if not isinstance(placement, CataloguePlacement) or not isinstance(settings, SequenceSettings):
        raise ConfigError(
            f"placement.kind is {placement.kind!r}: there is no catalogue to serve. Set it to 'catalogue'."
        )
    return placement, settings


def served_adapters(reader: ItemReader) -> ServedAdapters:
    """Return what clients are told of a reader's adapters."""
    factors = tuple(Factor(name=spec.name, rows=spec.shape[0], columns=spec.shape[1]) for spec in reader.specs)
    return ServedAdapters(settings=reader.settings, factors=factors)
