"""Whether a silo or a coordinator can take part, found out before it does."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from pplr.address import Address, check_free
from pplr.config import Config
from pplr.federation.events import ignore
from pplr.findings import Finding, Look, findings
from pplr.models.parts.settings import SplitPlacement
from pplr.pki import Identity, Role
from pplr.pki.look import certificate_state
from pplr.silos.keys import public_keys
from pplr.silos.operate import check_federation
from pplr.silos.processes import Security
from pplr.silos.reach import reached
from pplr.silos.work import SiloWork
from pplr.storage import check_writable
from pplr.wiring import prepare


def check_silo(config: Config, name: str, state: Path, coordinator: Address, security: Security) -> Iterator[Finding]:
    """Give findings about a silo's data, model, state, certificate, coordinator, clock and trunk; none stops the others."""
    config = security.of(config)
    looks: list[Look] = [
        ("data and model", lambda: _data_and_model(config, name, state)),
        ("state folder", lambda: check_writable(state)),
    ]
    if security.certificates is not None:
        folder = security.certificates
        looks.append(("certificate", lambda: certificate_state(folder, Identity(Role.CLIENT, name))))
    looks.append(("coordinator", lambda: reached(coordinator, security)))
    placement = config.placement
    if isinstance(placement, SplitPlacement) and placement.server is not None:
        looks.append(("trunk's server", lambda: _trunk(config, name)))
    return findings(looks)


def _data_and_model(config: Config, name: str, state: Path) -> str:
    found = SiloWork(prepare(config, ignore, silo=name), name, state).announcement
    return (
        f"{found.users:,} users, {found.events:,} events, {found.examples:,} training examples; "
        f"{found.items:,} items (digest {found.catalogue[:12]}); model {found.model} (digest {found.weights[:12]}); "
        f"{found.shared:,} of {found.parameters:,} parameters are shared"
    )


def _trunk(config: Config, name: str | None) -> str:
    from pplr.trunk.health import answer_seconds

    address, seconds = answer_seconds(config, name)
    return f"answers at {address} in {seconds * 1000:.0f} ms"


def check_coordinator(config: Config, out: Path, address: Address, security: Security) -> Iterator[Finding]:
    """Give findings about whether a coordinator can begin; none stops the others."""
    config = security.of(config)
    looks: list[Look] = [
        ("silos", lambda: _silos(config)),
        ("run folder", lambda: check_writable(out.absolute().parent)),
    ]
    if security.certificates is not None:
        folder = security.certificates
        looks.append(("certificate", lambda: certificate_state(folder, Identity(Role.COORDINATOR, "coordinator"))))
        looks.append(("certificates of silos", lambda: _known(folder, config.federation.silos)))
    looks.append(("address", lambda: check_free(address)))
    placement = config.placement
    if isinstance(placement, SplitPlacement) and placement.server is not None:
        looks.append(("trunk's server", lambda: _trunk(config, None)))
    return findings(looks)


def _silos(config: Config) -> str:
    check_federation(config, config.federation.silos)
    return ", ".join(config.federation.silos)


def _known(folder: Path, names: Sequence[str]) -> str:
    with tempfile.TemporaryDirectory() as keys:
        public_keys(folder, names, Path(keys))
    return f"{len(names)}, all of this authority, none revoked"
