"""The configuration of each party: what must be the same everywhere, and what is its own."""

from __future__ import annotations

import textwrap
from pathlib import Path

import tomlkit

from pplr.config import Config, config_toml
from pplr.deployment.plan import Deployment

CERTIFICATES = "certificates"
"""A party's folder of certificates, in its folder."""
DATA = Path("data")
"""Where a silo's own files are, in its folder."""


def coordinator_toml(deployment: Deployment) -> str:
    """Return the coordinator's configuration, which has no data."""
    federation = deployment.config.federation.model_copy(update={"silos": deployment.silos})
    config = _with_server(deployment).model_copy(update={"federation": federation})
    return _without_data(config, "Configuration of the coordinator, which has no data and no model.")


def trunk_toml(deployment: Deployment) -> str:
    """Return the configuration of the trunk's server, which has no data."""
    return _without_data(_of_others(deployment), "Configuration of the trunk's server, which has no data.")


def catalogue_toml(deployment: Deployment) -> str:
    """Return the configuration of the catalogue's server, which has the item table and no events."""
    config = _of_others(deployment)
    head = "Configuration of the catalogue's server, which has the item table."
    if config.data.demo is None:
        config = _with_own_files(config)
        head += f" The file {config.data.events} is named, and neither opened nor needed unless data.cleaning.k_core is set."
    return _commented(head, config_toml(config))


def silo_toml(deployment: Deployment, name: str) -> str:
    """Return the configuration of a silo, in which only its own files are named, and no other silo."""
    config = _of_others(deployment)
    head = f"Configuration of the silo {name}."
    if config.data.demo is None:
        config = _with_own_files(config)
        head += (
            f" Its own events are in {config.data.events}, all with the silo's name in the silo column, or without that "
            "column (leave out data.columns.silo then). The item table is the same everywhere."
        )
    return _commented(head, config_toml(config))


def _with_own_files(config: Config) -> Config:
    """Return a configuration whose files are in its party's own folder."""
    files = {key: DATA / path.name for key in ("events", "items") if (path := getattr(config.data, key)) is not None}
    return config.model_copy(update={"data": config.data.model_copy(update=files)})


def _of_others(deployment: Deployment) -> Config:
    """Return the configuration of whoever need not know the names of all silos."""
    config = _with_server(deployment)
    return config.model_copy(update={"federation": config.federation.model_copy(update={"silos": ()})})


def _with_server(deployment: Deployment) -> Config:
    config, placement = deployment.config, deployment.config.placement
    if placement.kind == "whole":
        return config
    server = deployment.trunk if placement.kind == "split" else deployment.catalogue
    own = placement.model_copy(update={"server": str(server), "certificates": CERTIFICATES})
    return config.model_copy(update={"placement": own})


def _without_data(config: Config, head: str) -> str:
    document = tomlkit.parse(config_toml(config))
    for section in ("data", "clients"):
        document.remove(section)
    return _commented(head, tomlkit.dumps(document))


def _commented(head: str, text: str) -> str:
    head += (
        " Device, threads and the model's folder are each party's own; seed, backbone, placement, training, strategy and "
        "evaluation must be the same everywhere."
    )
    return "".join(f"# {line}\n" for line in textwrap.wrap(head, 116)) + "\n" + text
