"""The folders of a deployment on disk: one for each party, and one for the authority, whose key nobody needs to run."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from pplr.deployment.configuration import CERTIFICATES, DATA, catalogue_toml, coordinator_toml, silo_toml, trunk_toml
from pplr.deployment.plan import Deployment
from pplr.deployment.scripts import Scripts, catalogue_scripts, coordinator_scripts, silo_scripts, trunk_scripts
from pplr.errors import ConfigError
from pplr.pki import Authority, Identity, Role
from pplr.pki.authority import CA, CERTIFICATE, CRL, KEY
from pplr.storage import write_folder

AUTHORITY, COORDINATOR, TRUNK, CATALOGUE, SILOS = "authority", "coordinator", "trunk", "catalogue", "silos"
LOCAL = ("localhost", "127.0.0.1", "::1")
"""Names by which a party's own machine reaches it."""


@dataclass(frozen=True)
class PartyFolder:
    """What one party gets.

    Attributes:
        place: its folder, below that of the deployment.
        identity: whose certificate and key are in it.
        hosts: names and addresses at which it listens.
        config: its configuration.
        scripts: its commands.
        judges: it tells whether certificates were revoked.
        knows: whose certificates it needs, without their keys.
    """

    place: str
    identity: Identity
    hosts: Sequence[str]
    config: str
    scripts: Scripts
    judges: bool = True
    knows: Sequence[Identity] = ()


def write_deployment(deployment: Deployment, folder: Path) -> list[Path]:
    """Write the folders of all parties into `folder`, whole or not at all; return them, the authority's first.

    Raises:
        ConfigError: `folder` is there already.
        StorageError: the disk is full or not writable.
    """
    if folder.exists():
        raise ConfigError(
            f"{folder} exists already, and keys that were given out are not replaced. Name another folder; for one more "
            f"certificate there is `pplr pki issue {folder / AUTHORITY}`."
        )
    parties = [*_servers(deployment), *(_silo(deployment, name) for name in deployment.silos)]

    def fill(target: Path) -> None:
        target.chmod(0o700)
        authority = Authority.create(target / AUTHORITY)
        for party in parties:
            authority.issue(party.identity, party.hosts, deployment.days)
        for party in parties:
            _fill_party(target / party.place, party, authority.folder)
        if deployment.config.data.demo is None:
            readers = [p for p in parties if p.identity.role is Role.CLIENT or p.place == CATALOGUE]
            _give_items(deployment, [target / party.place for party in readers])

    write_folder(folder, fill)
    return [folder / AUTHORITY, *(folder / party.place for party in parties)]


def _servers(deployment: Deployment) -> Iterator[PartyFolder]:
    silos = [Identity(Role.CLIENT, name) for name in deployment.silos]
    yield PartyFolder(
        COORDINATOR,
        Identity(Role.COORDINATOR, "coordinator"),
        _hosts(deployment.coordinator.name),
        coordinator_toml(deployment),
        coordinator_scripts(deployment, COORDINATOR),
        knows=silos,
    )
    if deployment.trunk is not None:
        yield PartyFolder(
            TRUNK,
            Identity(Role.TRUNK, "trunk"),
            _hosts(deployment.trunk.name),
            trunk_toml(deployment),
            trunk_scripts(deployment, TRUNK),
        )
    if deployment.catalogue is not None:
        yield PartyFolder(
            CATALOGUE,
            Identity(Role.TRUNK, "trunk"),
            _hosts(deployment.catalogue.name),
            catalogue_toml(deployment),
            catalogue_scripts(deployment, CATALOGUE),
        )


def _silo(deployment: Deployment, name: str) -> PartyFolder:
    own = quote(name, safe=" ")
    return PartyFolder(
        f"{SILOS}/{own}",
        Identity(Role.CLIENT, name),
        (),
        silo_toml(deployment, name),
        silo_scripts(deployment, name, own),
        judges=False,
    )


def _hosts(name: str) -> list[str]:
    return [*LOCAL, *([] if name in LOCAL else [name])]


def _fill_party(target: Path, party: PartyFolder, authority: Path) -> None:
    """Write a party's folder; its key is moved there, and is nowhere else."""
    target.mkdir(parents=True, mode=0o700)
    (target / "config.toml").write_text(party.config, encoding="utf-8")
    scripts: Mapping[str, str] = {"check": party.scripts.check, "start": party.scripts.start}
    for name, text in scripts.items():
        (target / name).write_text(text, encoding="utf-8")
        (target / name).chmod(0o755)
    (target / party.scripts.unit_name).write_text(party.scripts.unit, encoding="utf-8")
    own = target / CERTIFICATES / party.identity.folder
    own.mkdir(parents=True, mode=0o700)
    shutil.copyfile(authority / party.identity.folder / CERTIFICATE, own / CERTIFICATE)
    (authority / party.identity.folder / KEY).rename(own / KEY)
    for name in (CA, CRL) if party.judges else (CA,):
        shutil.copyfile(authority / name, target / CERTIFICATES / name)
    for other in party.knows:
        place = target / CERTIFICATES / other.folder
        place.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(authority / other.folder / CERTIFICATE, place / CERTIFICATE)


def _give_items(deployment: Deployment, parties: Sequence[Path]) -> None:
    """Give each party a folder for files of its own, with the item table in it, which is the same everywhere."""
    items = deployment.config.data.items
    for party in parties:
        (party / DATA).mkdir(mode=0o700)
        if items is not None and items.is_file():
            shutil.copyfile(items, party / DATA / items.name)
