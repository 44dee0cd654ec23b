"""From a configuration to the trunk that a server holds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import torch

from pplr.config import Config
from pplr.errors import ConfigError
from pplr.models.hub import ModelFiles
from pplr.models.hub.parts import load_parts
from pplr.models.layout import Layout
from pplr.models.lora import AdapterSettings, Lora
from pplr.models.parts import Which
from pplr.models.parts.passing import PartModel
from pplr.models.parts.settings import SplitPlacement
from pplr.models.settings import SequenceSettings
from pplr.trunk.fields import Agreement
from pplr.trunk.rows import ServerRows
from pplr.trunk.work import TrunkWork


class LoadedTrunk:
    """The frozen layers of a trunk, with places for adapters.

    Attributes:
        model: the layers.
        lora: the places.
        layout: order and shapes of the trunk's parameters in a row.
        width: numbers of a hidden state.
        decoder: whether the layers are those of a decoder.
    """

    def __init__(self, config: Config, files: ModelFiles, device: torch.device) -> None:
        """Read the trunk's tensors, and no others.

        Raises:
            ConfigError: the configuration splits no model.
        """
        settings = adapter_settings(config)
        placement = split_placement(config)
        (part,) = load_parts(files, placement.cut, Which.TRUNK, device=device)
        self.model = PartModel(part)
        self.lora = Lora([part], settings)
        self.layout = Layout(config.strategy.scope(self.lora.specs, int(part.config.num_hidden_layers)))
        self.width = int(part.config.hidden_size)
        self.decoder = config.backbone.kind == "generative"
        self._config = config
        self._device = device

    def work(self, clients: Sequence[str]) -> TrunkWork:
        """Return the trunk at work for `clients`, whose rows are as before the first round."""
        row = self.layout.initial_row(self._config.seed).to(self._device)
        proximal = self._config.strategy.local_objective.proximal
        training = self._config.training
        kept = training.moments == "kept"
        rows = ServerRows(self.layout, clients, row, training.weight_decay, proximal, keep_moments=kept)
        return TrunkWork(self.model, self.lora, rows)


def adapter_settings(config: Config) -> AdapterSettings:
    """Return the settings of the adapters in the language model.

    Raises:
        ConfigError: the backbone has no layers that could be cut.
    """
    if isinstance(config.backbone, SequenceSettings):
        raise ConfigError("backbone.kind is 'sequence', whose language model is not split. There is no trunk to serve.")
    return config.backbone.adapter


def agreement(config: Config, files: ModelFiles) -> Agreement:
    """Return what server and client must have in common, whatever run they are in.

    Raises:
        ConfigError: the configuration splits no model.
    """
    settings: dict[str, Any] = {
        "seed": config.seed,
        "kind": config.backbone.kind,
        "adapter": adapter_settings(config).model_dump(mode="json", exclude={"ranks"}),
        "weight_decay": config.training.weight_decay,
        "proximal": config.strategy.local_objective.proximal,
        "scope": config.strategy.model_dump(mode="json") if config.strategy.scopes else None,
    }
    if config.training.moments != "fresh":  # what a server of an older version has kept stays its own
        settings["moments"] = config.training.moments
    cut = split_placement(config).cut
    return Agreement(settings=_digest(settings), model=files.digest, bottom=cut.bottom, top=cut.top)


def run_digest(config: Config) -> str:
    """Return a hash of all settings that decide what becomes of the rows, but the data: other runs have others."""
    sections = config.model_dump(
        mode="json", include={"seed", "backbone", "placement", "training", "federation", "strategy"}
    )
    sections["backbone"].pop("model")
    sections["federation"].pop("silos")  # a session names the clients itself
    if config.training.moments == "fresh":
        sections["training"].pop("moments")
    if config.training.item_rate == 1:
        sections["training"].pop("item_rate")  # as before there were such settings
    sections["placement"] = {key: sections["placement"][key] for key in ("kind", "bottom", "top")}
    return _digest(sections)


def split_placement(config: Config) -> SplitPlacement:
    """Return the section `[placement]` of a configuration that splits a model.

    Raises:
        ConfigError: it does not.
    """
    if not isinstance(config.placement, SplitPlacement):
        raise ConfigError(
            f"placement.kind is {config.placement.kind!r}: there is no trunk to serve. Set it to 'split'."
        )
    return config.placement


def _digest(value: Any) -> str:
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=16).hexdigest()
