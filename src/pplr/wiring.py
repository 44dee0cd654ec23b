"""From a configuration to the living parts of a run: data, clients, backbone."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pplr.backbones import load_backbone
from pplr.catalogue.fetch import ServedModel
from pplr.client_names import check_client_names
from pplr.config import Config
from pplr.data import ClientAssignment, assign_clients, client_data, load, pool
from pplr.data.clients import ColumnClients
from pplr.data.dataset import ClientData, Dataset, Ints, Part
from pplr.errors import ConfigError, DataError, nearest
from pplr.federation import Client, Measuring
from pplr.federation.events import Event, Observer
from pplr.federation.item_vectors import ItemVectors
from pplr.fusion import Fusion
from pplr.models.backbone import Backbone
from pplr.models.hub import ModelFiles
from pplr.models.parts.settings import SplitPlacement
from pplr.models.ranks import RankLimits, check_ranks
from pplr.models.settings import GenerativeSettings
from pplr.run_folder import ITEM_VECTORS, Origin, origin
from pplr.shelf import Shelf
from pplr.trunk.access import TrunkAccess
from pplr.trunk.stub import StubTrunk

POOLED = "everyone"
"""Name of the one client of a strategy that pools all data."""


@dataclass(frozen=True)
class Parts:
    """What a configuration describes, loaded.

    Attributes:
        config: the configuration.
        dataset: all interactions.
        assignment: the client of each user.
        owners: the data of each client, in name order.
        backbone: the recommender without anybody's parameters.
        item_vectors: what it has encoded of the catalogue for clients here.
        model: the language model's files.
        notes: what was done to the data.
        seconds: wall time of `data` and `model`.
        trunk: the server of the layers between, or None where all layers are here.
        silo: the one client whose data this is about, or None where it is about all of them.
    """

    config: Config
    dataset: Dataset
    assignment: ClientAssignment
    owners: tuple[ClientData, ...]
    backbone: Backbone[Any]
    item_vectors: ItemVectors
    model: ModelFiles
    notes: tuple[str, ...]
    seconds: dict[str, float]
    trunk: TrunkAccess | None = None
    silo: str | None = None

    @property
    def seen(self) -> Dataset:
        """The interactions that may be counted here: all, or a silo's alone, whosever else may be in the same files."""
        if self.silo is None:
            return self.dataset
        return self.dataset.of(np.concatenate([owner.users for owner in self.owners]))

    @contextmanager
    def reached(self) -> Iterator[None]:
        """Use the trunk's server inside the block, and leave it at the end."""
        try:
            yield
        finally:
            if self.trunk is not None:
                self.trunk.close()

    def origin(self) -> Origin:
        """Return digests of the data and the model, to tell later whether they have changed."""
        return made_from(self.dataset, self.model, self.backbone)

    @property
    def travels(self) -> bool:
        """Something travels to and from a model's server in every round."""
        return self.trunk is not None or (isinstance(self.model, ServedModel) and self.backbone.adapted is not None)

    def traffic(self) -> dict[str, Any] | None:
        """Return the bytes that have travelled to and from a model's server; None where there is none."""
        if isinstance(self.model, ServedModel):
            return self.model.traffic
        return None if self.trunk is None else self.trunk.traffic()

    def trainers(self) -> list[Client]:
        """Return the clients that train: one per owner, or one for all where the strategy pools the data."""
        pooled = self.config.strategy.pools_data
        clients = self.clients((pool(self.owners, POOLED),) if pooled else self.owners)
        limit = self.config.training.max_examples
        if limit is not None:
            for client, count in zip(clients, shares(limit, [c.info.size for c in clients]), strict=True):
                client.limit_examples(count)
        return clients

    def ranks(self, clients: Sequence[str], initial_row: Tensor) -> RankLimits:
        """Return the ranks of all clients, whose rows start from `initial_row` [S]."""
        return RankLimits(self.backbone.layout, self.config.backbone.adapter.ranks, clients, initial_row)

    def fusion(self, users: Ints) -> Fusion | None:
        """Return what a client that owns `users` counts beside its model, or None where nothing is asked for."""
        settings = self.config.fusion
        return Fusion(settings, self.dataset, users) if settings.statistics else None

    def clients(self, owners: tuple[ClientData, ...]) -> list[Client]:
        """Return a client for each of `owners`."""
        evaluation = self.config.evaluation
        measuring = Measuring(
            evaluation.ks,
            evaluation.max_users,
            evaluation.mask_history,
            self.backbone.selects_by if evaluation.select_by == "auto" else evaluation.select_by,
            batch_users=16 if isinstance(self.config.backbone, GenerativeSettings) else 256,
            validation_users=evaluation.validation_users,
        )
        return [
            Client(
                owner,
                self.backbone,
                self.config.training,
                measuring,
                self.config.seed,
                None if self.trunk is None else StubTrunk(self.trunk.link(owner.name)),
                self.config.strategy.local_objective,
                self.fusion(owner.users),
                self.config.backbone.adapter.ranks.get(owner.name),
                self.item_vectors,
            )
            for owner in owners
        ]


def made_from(dataset: Dataset, files: ModelFiles, backbone: Backbone[Any]) -> Origin:
    """Return the digests of a run's origin, with that of its item vectors where a server has made them."""
    found = origin(dataset, files.digest, backbone.layout.digest)
    return {**found, ITEM_VECTORS: files.vectors} if isinstance(files, ServedModel) else found


def prepare(
    config: Config,
    observer: Observer,
    silo: str | None = None,
    shelf: Shelf | None = None,
    *,
    vectors: str | None = None,
) -> Parts:
    """Load data and model, and make the clients, or the one client `silo`; what lies on the `shelf` is not loaded again.

    `vectors` is the digest of the item vectors that a finished run was made from, as for `load_backbone`.

    Raises:
        DataError, ModelError, ConfigError: with a sentence that says what to change.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    started = time.perf_counter()
    observer(Event("loading", data={"what": "data"}, transient=True))
    shelf = Shelf() if shelf is None else shelf
    loaded = shelf.get("data", config.data.model_dump_json(), lambda: load(config.data, Path()))
    dataset, notes = loaded.dataset, (*(note.text for note in loaded.notes), *_fusion_notes(config, loaded.dataset))
    counts = {"users": len(dataset.user_ids), "items": len(dataset.catalogue), "events": len(dataset.items.values)}
    observer(Event("data_loaded", data={**counts, "notes": list(notes)}))
    _check_usable(dataset)
    assignment = assigned(dataset, config, silo)
    owners = client_data(dataset, assignment)
    if silo is None:
        _check_participation(config, len(owners))
        check_client_names(config, [owner.name for owner in owners])
    else:
        owners = (owner_called(owners, silo),)
    observer(Event("clients_made", data={"sizes": {owner.name: len(owner.users) for owner in owners}}))
    middle = time.perf_counter()
    backbone, files = load_backbone(config, dataset.catalogue, observer, silo, shelf, vectors=vectors)
    seconds = {"data": middle - started, "model": time.perf_counter() - middle}
    layout = backbone.layout
    check_ranks(layout, config.backbone.adapter.ranks)
    sizes = {"model": files.name, "trained": layout.size, "shared": layout.shared, "seconds": seconds["model"]}
    observer(Event("model_loaded", data=sizes))
    trunk = reach_trunk(config, files, [owner.name for owner in owners])
    return Parts(
        config, dataset, assignment, owners, backbone, ItemVectors(backbone), files, notes, seconds, trunk, silo
    )


def _fusion_notes(config: Config, dataset: Dataset) -> Iterator[str]:
    if "recent" in config.fusion.statistics and dataset.times is None:
        yield "The data has no event times, so 'recent' of fusion.statistics is left out."


def assigned(dataset: Dataset, config: Config, silo: str | None) -> ClientAssignment:
    """Return the client of each user; a silo that has its own files, without a silo column, owns all users in them."""
    if silo is not None and dataset.silos is None and isinstance(config.clients, ColumnClients):
        return ClientAssignment((silo,), np.zeros(len(dataset.user_ids), np.int64))
    return assign_clients(dataset, config.clients, config.seed)


def owner_called(owners: tuple[ClientData, ...], silo: str) -> ClientData:
    """Return the data of one silo.

    Raises:
        ConfigError: nobody is called so.
    """
    names = [owner.name for owner in owners]
    if silo not in names:
        raise ConfigError(
            f"There is no silo {silo!r} in the data.{nearest(silo, names)} There are: {', '.join(names)}."
        )
    return owners[names.index(silo)]


def reach_trunk(config: Config, files: ModelFiles, clients: list[str]) -> TrunkAccess | None:
    """Return the way to the trunk's server, or None where the configuration names none."""
    placement = config.placement
    if not isinstance(placement, SplitPlacement) or placement.server is None:
        return None
    from pplr.trunk.remote import RemoteAccess

    return RemoteAccess(config, files, clients)


def _check_usable(dataset: Dataset) -> None:
    """Raise DataError where nothing can be trained or nobody can be measured."""
    if not len(dataset.training().values):
        raise DataError(
            "There is no training event in the data. Move the cut of data.split later, or give more events."
        )
    if not len(dataset.queries(Part.TEST)):
        raise DataError(
            "No user has both a history and a test event, so nothing can be measured. Use data.split.kind = "
            "'leave-one-out', move the cut of data.split, or give longer histories."
        )


def _check_participation(config: Config, clients: int) -> None:
    wanted = config.federation.participation
    if isinstance(wanted, int) and wanted > clients:
        raise ConfigError(
            f"federation.participation = {wanted}, but there are {clients} clients. Give {clients} at most, or a share "
            "such as 0.5."
        )


def shares(total: int, sizes: list[int]) -> list[int]:
    """Return how many of `total` each gets, in proportion to `sizes`: whole numbers, none above its size.

    They add up to `total` (to all there is, where that is less), except that nobody who has anything gets nothing.
    """
    exact = np.asarray(sizes, dtype=np.float64) * min(1.0, total / max(sum(sizes), 1))
    counts = np.floor(exact).astype(int)
    for index in np.argsort(-(exact - counts), kind="stable")[: max(0, min(total, sum(sizes)) - int(counts.sum()))]:
        counts[index] += 1
    counts = np.minimum(np.maximum(counts, 1), sizes)
    while counts.sum() > total and counts.max() > 1:  # what the smallest were given is taken from the largest
        counts[int(counts.argmax())] -= 1
    return [int(count) for count in counts]
