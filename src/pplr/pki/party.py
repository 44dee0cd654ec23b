"""What one party has of the certificates, and how it judges those of others."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec

from pplr.errors import ConfigError, RunError
from pplr.pki.authority import CA, CERTIFICATE, CRL, KEY
from pplr.pki.identity import Identity, Role, identity_of


@dataclass(frozen=True)
class Party:
    """A party's own certificate and key, as PEM, and the authority's certificate.

    Attributes:
        authority: by which others are judged.
        certificate: its own.
        key: its own.
    """

    authority: bytes
    certificate: bytes
    key: bytes

    @classmethod
    def load(cls, folder: Path, identity: Identity) -> Party:
        """Return a party from the folder of certificates.

        Raises:
            ConfigError: its files are missing, are for somebody else, or the key may be read by others.
        """
        own = folder / identity.folder
        for path in (folder / CA, own / CERTIFICATE, own / KEY):
            if not path.is_file():
                raise ConfigError(
                    f"{path} does not exist, so {identity} cannot prove who it is. {_advice(folder, identity)}"
                )
        if os.name == "posix" and (own / KEY).stat().st_mode & 0o077:
            raise ConfigError(f"Others may read the key {own / KEY}. Run `chmod 600 {own / KEY}`.")
        certificate = (own / CERTIFICATE).read_bytes()
        try:
            found = identity_of(x509.load_pem_x509_certificate(certificate))
        except ValueError as problem:
            raise ConfigError(f"{own / CERTIFICATE} is no certificate: {problem}.") from problem
        if found != identity:
            raise ConfigError(f"{own / CERTIFICATE} is for {found}, not for {identity}. {_advice(folder, identity)}")
        return cls((folder / CA).read_bytes(), certificate, (own / KEY).read_bytes())


class Revocations:
    """The authority's list of revoked certificates, read again whenever its file has changed."""

    def __init__(self, folder: Path) -> None:
        """Read the list in the folder of certificates.

        Raises:
            RunError: it is missing or not signed by the authority; then nobody is let in.
        """
        self._folder = folder
        self._read_at: tuple[int, int] | None = None
        self._revoked: frozenset[int] = frozenset()
        self.refresh()

    def judged(self, certificate: bytes) -> Identity:
        """Return who a certificate (PEM) is for, whose signature TLS has checked.

        Raises:
            RunError: it was revoked, or names nobody.
        """
        self.refresh()
        found = x509.load_pem_x509_certificate(certificate)
        identity = identity_of(found)
        if found.serial_number in self._revoked:
            raise RunError(f"The certificate of {identity} was revoked. Ask for another one.")
        return identity

    def refresh(self) -> None:
        """Read the list, if its file has changed.

        Raises:
            RunError: it cannot be trusted.
        """
        path = self._folder / CRL
        try:
            status = path.stat()
            stamp = (status.st_mtime_ns, status.st_ino)
            if stamp == self._read_at:
                return
            found = x509.load_pem_x509_crl(path.read_bytes())
            authority = x509.load_pem_x509_certificate((self._folder / CA).read_bytes())
            key = authority.public_key()
            valid = isinstance(key, ec.EllipticCurvePublicKey) and found.is_signature_valid(key)
        except (OSError, ValueError, InvalidSignature, UnsupportedAlgorithm) as problem:
            raise RunError(f"The list of revoked certificates {path} cannot be read: {problem}.") from problem
        if not valid:
            raise RunError(f"The list of revoked certificates {path} was not signed by the authority in {CA}.")
        self._revoked, self._read_at = frozenset(one.serial_number for one in found), stamp


def _advice(folder: Path, identity: Identity) -> str:
    words = f"--client {identity.name!r}" if identity.role is Role.CLIENT else f"--{identity.role}"
    return f"Make it with `pplr pki issue {folder} {words}`, or copy it from where it was made."
