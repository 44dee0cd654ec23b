"""Who takes part in a deployment, and where."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pplr.address import Address
from pplr.config import Config
from pplr.data.clients import ColumnClients, made_names
from pplr.errors import ConfigError, nearest
from pplr.models.parts.settings import CataloguePlacement, SplitPlacement
from pplr.pki import Identity, Role

HOME = PurePosixPath("/srv/pplr")
"""Where a party's folder lies on its machine, if nothing else is said."""


@dataclass(frozen=True)
class Deployment:
    """A federation that is to be set up.

    Attributes:
        config: of the run.
        silos: their names, one each.
        coordinator: where silos reach it.
        trunk: where coordinator and silos reach the trunk's server; None where no model is split.
        home: the folder that will hold a party's folder on its machine, for the systemd units.
        days: until certificates expire.
    """

    config: Config
    silos: tuple[str, ...]
    coordinator: Address
    trunk: Address | None
    home: PurePosixPath
    days: int


def planned(
    config: Config,
    coordinator: Address,
    trunk: Address | None = None,
    silos: Sequence[str] = (),
    *,
    home: PurePosixPath = HOME,
    days: int = 365,
) -> Deployment:
    """Return the deployment of a configuration; without `silos` those of `federation.silos`, or of the clients it makes.

    Raises:
        ConfigError: a sentence for each thing that does not fit.
    """
    placement, made = config.placement, _made(config)
    server = placement.server if isinstance(placement, SplitPlacement) else None
    if trunk is None and server is not None:
        trunk = Address.parse(server)
    names = tuple(silos) or config.federation.silos or made
    problems = [
        *_wrong_placement(config, coordinator, trunk),
        *_wrong_names(names, made),
        *_wrong_run(config, names),
        *([] if home.is_absolute() else [f"--home {home} is no absolute path. Write one, such as /srv/pplr."]),
    ]
    if problems:
        raise ConfigError(problems)
    return Deployment(config, names, coordinator, trunk, home, days)


def _made(config: Config) -> tuple[str, ...]:
    """Return the names of clients that a configuration makes of one table; none where the data has silos."""
    return () if isinstance(config.clients, ColumnClients) else made_names(config.clients.count)


def _wrong_placement(config: Config, coordinator: Address, trunk: Address | None) -> Iterator[str]:
    split = isinstance(config.placement, SplitPlacement)
    if split and trunk is None:
        yield (
            "placement.kind is 'split', so there is a trunk's server. Say where it will be: --trunk-address HOST:PORT."
        )
    if isinstance(config.placement, CataloguePlacement):
        yield (
            "placement.kind is 'catalogue', and no folder is made for a catalogue's server. Set placement.kind to 'whole', "
            "or set up each party by hand."
        )
    if not split and trunk is not None:
        yield (
            f"placement.kind is {config.placement.kind!r}, so there is no trunk's server to be at {trunk}. Leave --trunk-address out, or "
            "set placement.kind to 'split'."
        )
    for address in (coordinator, trunk):
        if address is not None and address.host in {"0.0.0.0", "::", "[::]"}:  # noqa: S104
            yield f"Others cannot reach {address}. Give the name or the address that the machine has for them."
    if trunk == coordinator:
        yield f"Coordinator and trunk's server cannot both be at {trunk}. Give them different ports."


def _wrong_names(names: tuple[str, ...], made: tuple[str, ...]) -> Iterator[str]:
    if not names:
        yield "Nobody says which silos take part. Name them: --silo shop-1 --silo shop-2, or federation.silos."
    for name, count in Counter(names).items():
        if count > 1:
            yield f"The silo {name!r} is named {count} times. Each has a name of its own."
        if re.search(r'[:*?"<>|]', name) or name.startswith("."):
            yield f"{name!r} cannot name a silo: no ':', '*', '?', '\"', '<', '>', '|', and no dot at its start."
        try:
            Identity(Role.CLIENT, name)
        except ConfigError as problem:
            yield str(problem)
        if made and name not in made:
            yield (
                f"The configuration makes clients of one table (clients.kind), and none is called {name!r}."
                f"{nearest(name, made)} There are {', '.join(made)}; with files of their own, silos have the names that "
                "you give them, and clients.kind is 'column'."
            )


def _wrong_run(config: Config, names: tuple[str, ...]) -> Iterator[str]:
    wanted = config.federation.participation
    if isinstance(wanted, int) and wanted > len(names):
        yield f"federation.participation = {wanted}, but there are {len(names)} silos. Give a lower number."
    if config.strategy.pools_data:
        yield (
            f"strategy.kind = {config.strategy.model_dump()['kind']!r} pools all data in one place, and silos keep theirs. "
            "Choose another."
        )
    if config.data.demo is None and not isinstance(config.clients, ColumnClients):
        yield (
            f"clients.kind = {config.clients.kind!r} makes clients of one table, and silos have files of their own. Set "
            "clients.kind to 'column'."
        )


def places_on_this_machine(config: Config) -> Iterator[str]:
    """Yield a sentence for each file of this machine that parties need at the same place of theirs."""
    backbone = config.backbone
    for key, value in (("model", backbone.model), ("prompt", getattr(backbone, "prompt", ""))):
        if Path(value).is_absolute():
            yield f"backbone.{key} is {value}: have it at the same place where a model is computed, or edit config.toml."
