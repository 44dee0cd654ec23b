"""Whether a party's certificate is good for taking part now."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from pplr.errors import ConfigError, RunError
from pplr.pki.authority import CA, CERTIFICATE
from pplr.pki.identity import Identity
from pplr.pki.party import Party

FEW_DAYS = 14
"""A certificate that ends sooner is worth a word."""


def certificate_state(folder: Path, identity: Identity) -> str:
    """Return whose certificate a party has in its folder, and until when it is valid.

    Raises:
        ConfigError: it is missing, for somebody else, or of another authority than the folder's.
        RunError: it is not valid now.
    """
    Party.load(folder, identity)
    path = folder / identity.folder / CERTIFICATE
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    check_issuer(certificate, path, folder)
    left = certificate.not_valid_after_utc - datetime.now(UTC)
    if left.total_seconds() < 0 or certificate.not_valid_before_utc > datetime.now(UTC):
        raise RunError(
            f"The certificate is valid from {certificate.not_valid_before_utc:%Y-%m-%d} to "
            f"{certificate.not_valid_after_utc:%Y-%m-%d}. Ask for another one, or set this machine's clock."
        )
    soon = " Ask for another one soon." if left.days < FEW_DAYS else ""
    return f"of {identity}, valid until {certificate.not_valid_after_utc:%Y-%m-%d}.{soon}"


def check_issuer(certificate: x509.Certificate, path: Path, folder: Path) -> None:
    """Refuse the certificate in `path` where another authority than the one in `folder` has issued it.

    Raises:
        ConfigError: so it is.
    """
    authority = x509.load_pem_x509_certificate((folder / CA).read_bytes())
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature) as problem:
        raise ConfigError(
            f"{path} was not issued by the authority in {folder / CA}. Copy both from one place."
        ) from problem
