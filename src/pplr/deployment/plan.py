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
        catalogue: where silos reach the catalogue's server; None where there is none.
        home: the folder that will hold a party's folder on its machine, for the systemd units.
        days: until certificates expire.
    """

    config: Config
    silos: tuple[str, ...]
    coordinator: Address
    trunk: Address | None
    catalogue: Address | None
    home: PurePosixPath
    days: int


def planned(
    config: Config,
    coordinator: Address,
    trunk: Address | None = None,
    silos: Sequence[str] = (),
    *,
    catalogue: Address | None = None,
    home: PurePosixPath = HOME,
    days: int = 365,
) -> Deployment:
    """Return the deployment of a configuration; without `silos` those of `federation.silos`, or of the clients it makes.

    Raises:
        ConfigError: a sentence for each thing that does not fit.
    """
    placement, made = config.placement, _made(config)
    if trunk is None and isinstance(placement, SplitPlacement) and placement.server is not None:
        trunk = Address.parse(placement.server)
    if catalogue is None and isinstance(placement, CataloguePlacement) and "server" in placement.model_fields_set:
        catalogue = Address.parse(placement.server)
    names = tuple(silos) or config.federation.silos or made
    problems = [
        *_wrong_placement(config, coordinator, trunk, catalogue),
        *_wrong_names(names, made),
        *_wrong_run(config, names),
        *([] if home.is_absolute() else [f"--home {home} is no absolute path. Write one, such as /srv/pplr."]),
    ]
    if problems:
        raise ConfigError(problems)
    return Deployment(config, names, coordinator, trunk, catalogue, home, days)


def _made(config: Config) -> tuple[str, ...]:
    """Return the names of clients that a configuration makes of one table; none where the data has silos."""
    return () if isinstance(config.clients, ColumnClients) else made_names(config.clients.count)


def _wrong_placement(
    config: Config, coordinator: Address, trunk: Address | None, catalogue: Address | None
) -> Iterator[str]:
    split, fetched = (isinstance(config.placement, kind) for kind in (SplitPlacement, CataloguePlacement))
    if split and trunk is None:
        yield (
            "placement.kind is 'split', so there is a trunk's server. Say where it will be: --trunk-address HOST:PORT."
        )
    if fetched and catalogue is None:
        yield (
            "placement.kind is 'catalogue', so there is a catalogue's server. Say where it will be: --catalogue-address "
            "HOST:PORT."
        )
    if not fetched and catalogue is not None:
        yield (
            f"placement.kind is {config.placement.kind!r}, so there is no catalogue's server to be at {catalogue}. Leave "
            "--catalogue-address out, or set placement.kind to 'catalogue'."
        )
    if not split and trunk is not None:
        yield (
            f"placement.kind is {config.placement.kind!r}, so there is no trunk's server to be at {trunk}. Leave --trunk-address out, or "
            "set placement.kind to 'split'."
        )
    for address in (coordinator, trunk, catalogue):
        if address is not None and address.host in {"0.0.0.0", "::", "[::]"}:  # noqa: S104
            yield f"Others cannot reach {address}. Give the name or the address that the machine has for them."
    if coordinator in (trunk, catalogue):
        yield f"Coordinator and the model's server cannot both be at {coordinator}. Give them different ports."


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
    if config.data.demo is not None and isinstance(config.clients, ColumnClients):
        yield (
            "The demo data has no column of silos, so that each silo would train on all of it. Leave clients.kind = 'column' "
            "out, and each uses its part; or name files of your own: data.events, data.items."
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
