"""The backbone that a configuration names: its language model from files, cut in parts, or read by a server."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pplr.catalogue.fetch import fetch, kept
from pplr.catalogue.manifest import agreement
from pplr.catalogue.reader import RemoteReader
from pplr.config import Config
from pplr.data.dataset import Catalogue
from pplr.errors import ConfigError
from pplr.federation.events import Event, Observer
from pplr.models.backbone import Backbone
from pplr.models.hub import Kind, ModelFiles, load_base, load_decoder, load_encoder, load_tokenizer, require, resolve
from pplr.models.hub.parts import load_parts
from pplr.models.layout import Layout
from pplr.models.parts import Which
from pplr.models.parts.settings import CataloguePlacement, PlacementSettings, SplitPlacement
from pplr.models.settings import EncoderSettings, GenerativeSettings, SequenceSettings
from pplr.models.text import item_texts
from pplr.models.vectors import encode, tokenise
from pplr.pki import Identity, Role
from pplr.shelf import Shelf
from pplr.training.item_learning import LocalReader
from pplr.trunk.stub import Unassigned

if TYPE_CHECKING:
    from pplr.models.parts.passing import PartModel, Trunk


def load_backbone(
    config: Config,
    catalogue: Catalogue,
    observer: Observer,
    silo: str | None = None,
    shelf: Shelf | None = None,
    *,
    vectors: str | None = None,
) -> tuple[Backbone[Any], ModelFiles]:
    """Return the backbone that the configuration names over a catalogue, and the files of its language model.

    What the strategy keeps from mixing is private in its layout. Item vectors that a server has are fetched as `silo`, or
    as the coordinator; those of the digest `vectors` are not asked for where they are in the cache. A backbone on the
    `shelf` serves once more with another layout; its former users must be done with it.
    """
    used = (config.data, config.backbone, config.placement)
    key = "\n".join([*(settings.model_dump_json() for settings in used), config.device, silo or "", vectors or ""])

    def make() -> tuple[Backbone[Any], ModelFiles, Layout]:
        if isinstance(config.placement, CataloguePlacement):
            backbone, files = _served(config, catalogue, observer, silo, vectors)
        else:
            backbone, files = _backbone(config, catalogue, observer)
        return backbone, files, backbone.layout

    backbone, files, layout = (Shelf() if shelf is None else shelf).get("backbone", key, make)
    backbone.layout = Layout(config.strategy.scope(layout.specs))
    return backbone, files


def _served(
    config: Config, catalogue: Catalogue, observer: Observer, silo: str | None, digest: str | None
) -> tuple[Backbone[Any], ModelFiles]:
    """Return the sequence backbone over item vectors of a server; no file of a language model is looked for."""
    from pplr.models.sequence import SequenceBackbone

    settings, placement = config.backbone, config.placement
    if not isinstance(settings, SequenceSettings) or not isinstance(placement, CataloguePlacement):
        raise ConfigError("Only the backbone 'sequence' reads item vectors of a server.")
    device, wanted = choose_device(config.device), agreement(settings, catalogue)
    identity = Identity(Role.COORDINATOR, "coordinator") if silo is None else Identity(Role.CLIENT, silo)
    found = None if digest is None else kept(digest, wanted)
    if found is None:
        observer(Event("loading", data={"what": f"item vectors of {placement.server}"}, transient=True))
        found = fetch(
            placement,
            identity,
            wanted,
            lambda text: observer(Event("loading", data={"what": text}, transient=True)),
        )
    reader = RemoteReader(placement, identity, found.manifest, found.meter) if settings.adapters else None
    backbone = SequenceBackbone(settings, catalogue, None, None, device, vectors=found.vectors, reader=reader)
    return backbone, found.model(settings.model)


def _backbone(config: Config, catalogue: Catalogue, observer: Observer) -> tuple[Backbone[Any], ModelFiles]:
    settings, device = config.backbone, choose_device(config.device)
    observer(Event("loading", data={"what": f"model {settings.model}"}, transient=True))
    files = resolve(
        settings.model,
        progress=lambda text: observer(Event("loading", data={"what": text}, transient=True)),
        terms=lambda text: observer(Event("model_terms", data={"model": settings.model, "terms": text})),
    )
    if isinstance(settings, GenerativeSettings):
        from pplr.models.generative import GenerativeBackbone

        model, tokenizer = _decoder(files, config.placement, device)
        return GenerativeBackbone(settings, catalogue, model, tokenizer, device=device), files
    if isinstance(settings, EncoderSettings):
        from pplr.models.encoder import EncoderBackbone

        model, tokenizer = _encoder(files, config.placement, device)
        return EncoderBackbone(settings, catalogue, model, tokenizer, device), files
    return _sequence(settings, catalogue, files, device, observer), files


def _decoder(files: ModelFiles, placement: PlacementSettings, device: torch.device) -> tuple[Any, Any]:
    """Return a causal model, whole or split, and its tokenizer."""
    if not isinstance(placement, SplitPlacement):
        return load_decoder(files, device=device)
    from pplr.models.causal.split import SplitCausal

    require(files, Kind.DECODER, "text can only be generated by a decoder")
    bottom, trunk, top = _part_models(files, placement, device)
    return SplitCausal(bottom, trunk, top, _pieces(placement)), load_tokenizer(files)


def _encoder(files: ModelFiles, placement: PlacementSettings, device: torch.device) -> tuple[Any, Any]:
    """Return an encoder, whole or split, and its tokenizer."""
    if not isinstance(placement, SplitPlacement):
        return load_encoder(files, device=device)
    from pplr.models.parts.encoder import SplitEncoder

    require(files, Kind.ENCODER, "an encoder was asked for")
    bottom, trunk, top = _part_models(files, placement, device)
    return SplitEncoder(bottom, trunk, top, _pieces(placement)), load_tokenizer(files)


def _part_models(
    files: ModelFiles, placement: SplitPlacement, device: torch.device
) -> tuple[PartModel, Trunk, PartModel]:
    """Return bottom, trunk and top; a trunk that a server holds is not read."""
    from pplr.models.parts.passing import PartModel

    if placement.server is None:
        bottom, trunk, top = load_parts(files, placement.cut, *Which, device=device)
        return PartModel(bottom), PartModel(trunk), PartModel(top)
    bottom, top = load_parts(files, placement.cut, Which.BOTTOM, Which.TOP, device=device)
    return PartModel(bottom), Unassigned(), PartModel(top)


def _pieces(placement: SplitPlacement) -> int:
    return 1 if placement.server is None else placement.pieces


def _sequence(
    settings: SequenceSettings, catalogue: Catalogue, files: ModelFiles, device: torch.device, observer: Observer
) -> Backbone[Any]:
    """Return the sequence backbone; without adapters it has no language model, only its item vectors."""
    from pplr.models.sequence import SequenceBackbone

    def tell() -> None:
        observer(Event("loading", data={"what": f"{len(catalogue):,} item vectors"}, transient=True))

    vectors = item_vectors(settings, catalogue, files, device, tell)
    if not settings.adapters:
        return SequenceBackbone(settings, catalogue, None, None, device, vectors=vectors)
    if settings.adapter_updates == "round":
        reader = item_reader(settings, catalogue, files, device)
        return SequenceBackbone(settings, catalogue, None, None, device, vectors=vectors, reader=reader)
    model, tokenizer = load_base(files, device=device)
    return SequenceBackbone(settings, catalogue, model, tokenizer, device, vectors=vectors)


def item_reader(
    settings: SequenceSettings, catalogue: Catalogue, files: ModelFiles, device: torch.device
) -> LocalReader:
    """Return the language model that reads the items, with the adapters of these settings in it."""
    from pplr.models.sequence import item_tokens

    model, tokenizer = load_base(files, device=device)
    return LocalReader(model, item_tokens(settings, catalogue, tokenizer), settings.adapter, settings.live_items)


def item_vectors(
    settings: SequenceSettings,
    catalogue: Catalogue,
    files: ModelFiles,
    device: torch.device,
    tell: Callable[[], None] = lambda: None,
) -> Tensor:
    """Return vectors [items, hidden] of all items, from the cache where they were computed before.

    The language model is not even loaded then; `tell` is called before it is.
    """
    from pplr.models.vector_cache import read_vectors, store_vectors, vectors_key

    texts = item_texts(catalogue, settings.attributes)
    key = vectors_key(files.digest, texts, settings.item_tokens)
    vectors = read_vectors(key, len(catalogue))
    if vectors is None:
        tell()
        model, tokenizer = load_base(files, device=device)
        vectors = encode(model, tokenise(tokenizer, texts, settings.item_tokens)).cpu()
        store_vectors(key, vectors)
    return vectors


def choose_device(name: str) -> torch.device:
    """Return the device of that name; "auto" is the first GPU, or the CPU where there is none.

    Raises:
        ConfigError: there is no such GPU.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device = {name!r}, but torch sees {torch.cuda.device_count()} GPUs. Use device = 'cpu' or 'auto'."
        )
    return device
