"""Whether a catalogue's server can be started here, or is there and lets a party in; found out before work begins."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc

from pplr.address import Address, check_free
from pplr.catalogue.calls import CALL_SECONDS, SERVER
from pplr.catalogue.fetch import agreed
from pplr.catalogue.manifest import MANIFEST_METHOD, Manifest, agreement, parsed
from pplr.catalogue.serving import catalogue_settings
from pplr.config import Config
from pplr.data.load import load_catalogue
from pplr.errors import RunError
from pplr.findings import Finding, Look, findings
from pplr.models.hub import resolve
from pplr.pki import Identity, Party, Revocations, Role
from pplr.pki.look import certificate_state
from pplr.storage import check_writable
from pplr.trunk.channel import details_of, lasting, secure_channel


def check_server(
    config: Config, listen: Address, state: Path, certificates: Path | None, tell: Callable[[str], None]
) -> Iterator[Finding]:
    """Give findings about a server's items, model, state, certificate and address; none stops the others."""
    placement, _ = catalogue_settings(config)
    folder = certificates or Path(placement.certificates)
    looks: list[Look] = [
        ("items", lambda: _items(config)),
        ("model", lambda: _model(config, tell)),
        ("state folder", lambda: check_writable(state)),
        ("certificate", lambda: certificate_state(folder, Identity(Role.TRUNK, "trunk"))),
        ("list of revoked certificates", lambda: _revocations(folder)),
        ("address", lambda: check_free(listen)),
    ]
    return findings(looks)


def asked(config: Config, client: str | None, certificates: Path | None = None) -> tuple[str, Manifest, float]:
    """Return a server's address, the manifest that it gives a client (or the coordinator), and the seconds it took.

    `certificates` is the party's folder; the configuration's without.

    Raises:
        ConfigError: the configuration names no such server, or the party has no certificate.
        DataError: there is no item table to compare with.
        RunError: it does not answer, does not let the party in, or has vectors of another catalogue.
    """
    placement, settings = catalogue_settings(config)
    identity = Identity(Role.COORDINATOR, "coordinator") if client is None else Identity(Role.CLIENT, client)
    wanted = agreement(settings, load_catalogue(config.data, Path()))
    party, server = Party.load(certificates or Path(placement.certificates), identity), placement.server
    with secure_channel(server, party) as channel:
        started = time.perf_counter()
        try:
            data: bytes = channel.unary_unary(MANIFEST_METHOD)(b"", timeout=CALL_SECONDS)
        except grpc.RpcError as problem:
            raise lasting(problem, server, SERVER) or RunError(
                f"The {SERVER} at {server} does not answer ({details_of(problem)}). Is it running, and is this its address?"
            ) from problem
        seconds = time.perf_counter() - started
    return server, agreed(parsed(data), wanted, server), seconds


def _items(config: Config) -> str:
    _, settings = catalogue_settings(config)
    found = agreement(settings, load_catalogue(config.data, Path()))
    return f"{found.items:,}, texts of digest {found.texts[:12]}"


def _model(config: Config, tell: Callable[[str], None]) -> str:
    files = resolve(config.backbone.model, progress=tell)
    return f"{files.name} (digest {files.digest[:12]})"


def _revocations(folder: Path) -> str:
    Revocations(folder)
    return "signed by the authority"
