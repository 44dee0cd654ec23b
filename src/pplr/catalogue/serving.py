"""From a configuration and a state folder to a catalogue's server that is ready to serve."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from pplr.catalogue.chunks import packed, raw_bytes
from pplr.catalogue.folder import VectorFolder
from pplr.catalogue.manifest import FLOAT_BYTES, LEAST_CHUNK, MOST_CHUNK, Agreement, Chunk, Manifest, agreement, sha256
from pplr.catalogue.service import CatalogueServer
from pplr.config import Config
from pplr.data.load import load_catalogue
from pplr.errors import ConfigError
from pplr.models.hub import ModelFiles, resolve
from pplr.models.parts.settings import CataloguePlacement
from pplr.models.settings import SequenceSettings
from pplr.storage import write_folder
from pplr.wiring import choose_device, item_vectors

CHUNK_BYTES = 2**20


def open_server(
    config: Config,
    state: Path,
    certificates: Path | None,
    chunk_bytes: int = CHUNK_BYTES,
    tell: Callable[[str], None] = lambda text: None,
) -> CatalogueServer:
    """Return a server with the item vectors that `config` describes, computed unless `state` has them already.

    Raises:
        ConfigError: there is nothing to serve, no certificate, or chunks cannot be so large.
        DataError, ModelError: the item table or the language model cannot be used.
        StorageError: the state cannot be written.
    """
    placement, settings = config.placement, config.backbone
    if not isinstance(placement, CataloguePlacement) or not isinstance(settings, SequenceSettings):
        raise ConfigError(
            f"placement.kind is {placement.kind!r}: there is no catalogue to serve. Set it to 'catalogue'."
        )
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
    if folder is None or folder.missing():
        tell(f"Reading {len(catalogue):,} items with {files.name}.")
        vectors = item_vectors(settings, catalogue, files, choose_device(config.device))
        folder = stored(path, vectors, wanted, files, chunk_bytes)
    manifest = folder.manifest
    size = sum(chunk.size for chunk in manifest.chunks)
    tell(
        f"{manifest.items:,} vectors of {manifest.width} numbers, {size / 1e6:,.1f} MB in {len(manifest.chunks)} chunks, "
        f"digest {manifest.vectors[:12]}."
    )
    return CatalogueServer(folder, server_certificates)


def stored(path: Path, vectors: Tensor, made_from: Agreement, files: ModelFiles, chunk_bytes: int) -> VectorFolder:
    """Write vectors [items, width] into a folder, whole or not at all, and return it.

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
    )

    def fill(target: Path) -> None:
        new = VectorFolder(target, manifest)
        new.write_manifest()
        for number, chunk in enumerate(chunks):
            new.write_chunk(number, chunk)

    write_folder(path, fill)
    return VectorFolder(path, manifest)
