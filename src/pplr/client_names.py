"""Names of clients in a configuration: what is meant for one that is not there is a mistake, and found before any work."""

from __future__ import annotations

from collections.abc import Sequence

from pplr.config import Config
from pplr.errors import ConfigError, nearest


def check_client_names(config: Config, clients: Sequence[str]) -> None:
    """Refuse settings of clients that are not among `clients`, the names of all.

    Raises:
        ConfigError: a sentence for each such name, or there is nobody to begin with.
    """
    settings = {"backbone.adapter.ranks": config.backbone.adapter.ranks, "federation.joins": config.federation.joins}
    problems = [
        f"{setting} names the client {name!r}, which is not there.{nearest(name, clients)} Clients: {', '.join(clients)}."
        for setting, values in settings.items()
        for name in values
        if name not in clients
    ]
    joins = config.federation.joins
    if clients and all(joins.get(name, 1) > 1 for name in clients):
        problems.append("federation.joins leaves nobody for round 1. Let one client at least begin there.")
    if problems:
        raise ConfigError(problems)
