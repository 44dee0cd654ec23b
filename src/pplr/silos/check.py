"""Whether a silo can take part, found out before it does: data, model, state, certificate, coordinator, clock, trunk."""

from __future__ import annotations

import http.client
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

from cryptography import x509

from pplr.config import Config
from pplr.errors import PplrError, RunError
from pplr.federation.events import ignore
from pplr.models.parts.settings import SplitPlacement
from pplr.pki import Identity, Party, Role
from pplr.pki.authority import CA, CERTIFICATE
from pplr.silos.processes import Address, Security
from pplr.silos.work import SiloWork
from pplr.storage import make_folder, write_text
from pplr.wiring import prepare

LARGEST_SKEW = 5.0
"""Seconds by which clocks may differ; Flower refuses what seems to be signed long ago or in the future."""
FEW_DAYS = 14
"""A certificate that ends sooner is worth a word."""
ANSWER_SECONDS = 10.0


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        what: in a word or two.
        good: whether the silo can take part as far as this goes.
        text: what was found, or what to do.
    """

    what: str
    good: bool
    text: str


def check_silo(config: Config, name: str, state: Path, coordinator: Address, security: Security) -> Iterator[Finding]:
    """Give findings one after the other; none stops the others."""
    config = security.of(config)
    looks: list[tuple[str, Callable[[], str]]] = [
        ("data and model", lambda: _data_and_model(config, name, state)),
        ("state folder", lambda: _state(state)),
    ]
    if security.certificates is not None:
        folder = security.certificates
        looks.append(("certificate", lambda: _certificate(folder, name)))
    looks.append(("coordinator", lambda: _coordinator(coordinator, security)))
    placement = config.placement
    if isinstance(placement, SplitPlacement) and placement.server is not None:
        looks.append(("trunk's server", lambda: _trunk(config, name)))
    for what, look in looks:
        try:
            yield Finding(what, True, look())
        except (PplrError, OSError) as problem:
            yield Finding(what, False, str(problem))


def _data_and_model(config: Config, name: str, state: Path) -> str:
    found = SiloWork(prepare(config, ignore, silo=name), name, state).announcement
    return (
        f"{found.users:,} users, {found.events:,} events, {found.examples:,} training examples; "
        f"{found.items:,} items (digest {found.catalogue[:12]}); model {found.model} (digest {found.weights[:12]}); "
        f"{found.shared:,} of {found.parameters:,} parameters are shared"
    )


def _state(state: Path) -> str:
    make_folder(state)
    probe = state / ".probe"
    write_text(probe, "")
    probe.unlink()
    return f"{state} can be written"


def _certificate(folder: Path, name: str) -> str:
    identity = Identity(Role.CLIENT, name)
    Party.load(folder, identity)
    certificate = x509.load_pem_x509_certificate((folder / identity.folder / CERTIFICATE).read_bytes())
    left = certificate.not_valid_after_utc - datetime.now(UTC)
    if left.total_seconds() < 0 or certificate.not_valid_before_utc > datetime.now(UTC):
        raise RunError(
            f"The certificate is valid from {certificate.not_valid_before_utc:%Y-%m-%d} to "
            f"{certificate.not_valid_after_utc:%Y-%m-%d}. Ask for another one, or set this machine's clock."
        )
    soon = " Ask for another one soon." if left.days < FEW_DAYS else ""
    return f"of {identity}, valid until {certificate.not_valid_after_utc:%Y-%m-%d}.{soon}"


def _coordinator(address: Address, security: Security) -> str:
    """Ask the SuperLink anything; its answer has its clock.

    Raises:
        RunError: nobody answers, it is somebody else, or its clock is far from ours.
    """
    connection: http.client.HTTPConnection
    if security.certificates is None:
        connection = http.client.HTTPConnection(address.host, address.port, timeout=ANSWER_SECONDS)
    else:
        context = ssl.create_default_context(cafile=str(security.certificates / CA))
        connection = http.client.HTTPSConnection(address.host, address.port, timeout=ANSWER_SECONDS, context=context)
    started = time.monotonic()
    try:
        connection.request("GET", "/")
        date = connection.getresponse().headers.get("date")
    except (OSError, http.client.HTTPException) as problem:
        raise RunError(f"The coordinator does not answer at {address}: {problem}. Is it running?") from problem
    finally:
        connection.close()
    taken = time.monotonic() - started
    if date is None:
        raise RunError(f"Whoever answers at {address} is no SuperLink. Look at the address.")
    skew = abs(time.time() - parsedate_to_datetime(date).timestamp()) - 1.0  # the date has whole seconds
    if skew > LARGEST_SKEW + taken:
        raise RunError(
            f"The clocks of this machine and of the coordinator differ by {skew:.0f} seconds; {LARGEST_SKEW:.0f} are "
            "allowed. Let both follow a time server (timedatectl set-ntp true)."
        )
    return f"answers at {address} in {taken * 1000:.0f} ms; the clocks agree"


def _trunk(config: Config, name: str) -> str:
    from pplr.trunk.health import answer_seconds

    address, seconds = answer_seconds(config, name)
    return f"answers at {address} in {seconds * 1000:.0f} ms"
