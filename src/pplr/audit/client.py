"""A client of a finished run: its bottom has trained adapters, which the trunk's server does not know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from pplr.audit.observed import behind
from pplr.backbones import load_backbone
from pplr.config import Config
from pplr.data import load_dataset
from pplr.data.dataset import Dataset
from pplr.errors import ConfigError, nearest
from pplr.federation.events import ignore
from pplr.models.hub import ModelFiles
from pplr.models.lora import AdapterSettings, Lora
from pplr.models.parts import Part
from pplr.models.parts.passing import PartModel
from pplr.models.parts.settings import WholePlacement
from pplr.models.settings import SequenceSettings
from pplr.run_folder import check_origin, origin
from pplr.runner import load_run


@dataclass(frozen=True)
class AdaptedClient:
    """A client's adapters.

    Attributes:
        name: the client's name.
        adapter: settings of the adapters.
        parameters: their values, by the names that they have in the whole model.
    """

    name: str
    adapter: AdapterSettings
    parameters: Mapping[str, Tensor]

    def states(self, bottom: Part, ids: Sequence[Tensor]) -> list[Tensor]:
        """Return the states of texts behind a bottom with these adapters in it, which are put into it for good."""
        if not bottom.layers:
            return behind(PartModel(bottom), ids)
        with Lora([bottom], self.adapter).bound(self.parameters):
            return behind(PartModel(bottom), ids)


@dataclass(frozen=True)
class ClientOfRun:
    """What a finished run says about one of its clients.

    Attributes:
        config: the run's configuration.
        dataset: the run's data.
        files: the run's language model.
        client: the client's adapters.
    """

    config: Config
    dataset: Dataset
    files: ModelFiles
    client: AdaptedClient


def load_client(run: Path, name: str) -> ClientOfRun:
    """Return a client of the finished run in a folder.

    Raises:
        RunError: there is no finished run, or its items or its model have changed since.
        ConfigError: the run has no such client, or its backbone sends no states.
    """
    config, rows = load_run(run)
    if name not in rows:
        raise ConfigError(
            f"There is no client {name!r} in {run}.{nearest(name, rows)} Clients: {', '.join(sorted(rows))}."
        )
    if isinstance(config.backbone, SequenceSettings):
        raise ConfigError(
            f"The run in {run} has the backbone 'sequence', which sends no hidden states of histories. Name a run of the "
            "backbone 'generative' or 'encoder'."
        )
    dataset = load_dataset(config.data, Path())
    whole = config.model_copy(update={"placement": WholePlacement(), "device": "cpu"})
    backbone, files = load_backbone(whole, dataset.catalogue, ignore)
    check_origin(run, origin(dataset, files.digest, backbone.layout.digest), only=("items", "model", "parameters"))
    client = AdaptedClient(name, config.backbone.adapter, dict(backbone.layout.views(rows[name])))
    return ClientOfRun(config, dataset, files, client)
