"""From a configuration to the trunk that a server holds."""

from __future__ import annotations

from collections.abc import Sequence

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
        placement = config.placement
        if not isinstance(placement, SplitPlacement):
            raise ConfigError("placement.kind is 'whole': there is no trunk to serve. Set placement.kind to 'split'.")
        (part,) = load_parts(files, placement.cut, Which.TRUNK, device=device)
        self.model = PartModel(part)
        self.lora = Lora([part], settings)
        self.layout = Layout(self.lora.specs)
        self.width = int(part.config.hidden_size)
        self.decoder = config.backbone.kind == "generative"
        self._config = config
        self._device = device

    def work(self, clients: Sequence[str]) -> TrunkWork:
        """Return the trunk at work for `clients`, whose rows are as before the first round."""
        row = self.layout.initial_row(self._config.seed).to(self._device)
        rows = ServerRows(self.layout, clients, row, self._config.training.weight_decay)
        return TrunkWork(self.model, self.lora, rows)


def adapter_settings(config: Config) -> AdapterSettings:
    """Return the settings of the adapters in the language model.

    Raises:
        ConfigError: the backbone has no layers that could be cut.
    """
    if isinstance(config.backbone, SequenceSettings):
        raise ConfigError("backbone.kind is 'sequence', whose language model is not split. There is no trunk to serve.")
    return config.backbone.adapter
