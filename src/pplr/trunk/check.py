"""Whether a trunk's server can be started here, found out before it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from pplr.address import Address, check_free
from pplr.config import Config
from pplr.findings import Finding, Look, findings
from pplr.pki import Identity, Revocations, Role
from pplr.pki.look import certificate_state
from pplr.storage import check_writable
from pplr.trunk.build import split_placement
from pplr.trunk.serving import load_trunk


def check_server(
    config: Config, listen: Address, state: Path, certificates: Path | None, tell: Callable[[str], None]
) -> Iterator[Finding]:
    """Give findings about a server's model, state, certificate and address; none stops the others."""
    folder = certificates or Path(split_placement(config).certificates)
    looks: list[Look] = [
        ("model", lambda: _model(config, tell)),
        ("state folder", lambda: check_writable(state)),
        ("certificate", lambda: certificate_state(folder, Identity(Role.TRUNK, "trunk"))),
        ("list of revoked certificates", lambda: _revocations(folder)),
        ("address", lambda: check_free(listen)),
    ]
    return findings(looks)


def _model(config: Config, tell: Callable[[str], None]) -> str:
    trunk, files = load_trunk(config, tell)
    layers = trunk.model.part.layers
    return f"{files.name}, layers {layers.start + 1} to {layers.stop}; {trunk.layout.size:,} parameters a client"


def _revocations(folder: Path) -> str:
    Revocations(folder)
    return "signed by the authority"
