"""The authority of one federation: it issues certificates and revokes them.

Keys are on the curve P-256. The authority's own key is needed for issuing and revoking only, and stays in the folder
`authority`; no party of a run needs it.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from filelock import FileLock

from pplr.errors import ConfigError, nearest
from pplr.pki.identity import Identity, Role
from pplr.storage import write_bytes, write_text

CA, CRL = "ca.pem", "crl.pem"
CERTIFICATE, KEY = "certificate.pem", "key.pem"
AUTHORITY_DAYS = 3650
EARLIER = timedelta(minutes=5)
"""Certificates are valid from a little before now: clocks differ."""


@dataclass
class Issued:
    """One certificate in the authority's book.

    Attributes:
        role: of its party.
        name: of its party.
        serial: its number, in hexadecimal.
        until: when it expires, ISO 8601.
        revoked: when it was revoked, or None.
    """

    role: str
    name: str
    serial: str
    until: str
    revoked: str | None = None


class Authority:
    """A folder with the authority's key and book, and the certificates that it has issued."""

    def __init__(self, folder: Path) -> None:
        """Open the authority in `folder`.

        Raises:
            ConfigError: there is none.
        """
        self.folder = folder
        if not (folder / "authority" / KEY).is_file():
            raise ConfigError(f"There is no authority in {folder}. Make one with `pplr pki init {folder}`.")

    @classmethod
    def create(cls, folder: Path, name: str = "pplr") -> Authority:
        """Make an authority in `folder`.

        Raises:
            ConfigError: there is one already.
        """
        if (folder / "authority").exists():
            raise ConfigError(f"There is an authority in {folder} already. Issue with it, or name another folder.")
        key, now = ec.generate_private_key(ec.SECP256R1()), _now()
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{name} authority")])
        usage = x509.KeyUsage(
            digital_signature=False,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=True,
            crl_sign=True,
            encipher_only=False,
            decipher_only=False,
        )
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - EARLIER)
            .not_valid_after(now + timedelta(days=AUTHORITY_DAYS))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        (folder / "authority").mkdir(parents=True, mode=0o700)
        _write_key(folder / "authority" / KEY, key)
        write_bytes(folder / CA, certificate.public_bytes(serialization.Encoding.PEM))
        authority = cls(folder)
        with authority._book():
            pass
        return authority

    def issue(self, identity: Identity, hosts: Sequence[str] = (), days: int = 365) -> Path:
        """Issue a certificate, and return the folder with it and its key; an older one of the party is replaced.

        `hosts` are names and addresses under which others reach the party, where it listens.
        """
        key, now = ec.generate_private_key(ec.SECP256R1()), _now()
        names = [x509.UniformResourceIdentifier(identity.uri), *(_host(host) for host in hosts)]
        uses = _USES[identity.role]
        ca, ca_key = self._certificate(), self._key()
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, identity.name[:64])]))
            .issuer_name(ca.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - EARLIER)
            .not_valid_after(min(now + timedelta(days=days), ca.not_valid_after_utc))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
            .sign(ca_key, hashes.SHA256())
        )
        target = self.folder / identity.folder
        target.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._book() as book:
            until = certificate.not_valid_after_utc.isoformat()
            book.append(Issued(identity.role.value, identity.name, f"{certificate.serial_number:x}", until))
        _write_key(target / KEY, key)
        write_bytes(target / CERTIFICATE, certificate.public_bytes(serialization.Encoding.PEM))
        return target

    def revoke(self, identity: Identity) -> int:
        """Revoke all certificates of a party, and return how many there were.

        Raises:
            ConfigError: it has none that is valid.
        """
        with self._book() as book:
            found = [one for one in book if (one.role, one.name) == (identity.role, identity.name) and not one.revoked]
            if not found:
                names = {one.name for one in book if not one.revoked}
                raise ConfigError(
                    f"There is no valid certificate of {identity}.{nearest(identity.name, names)} See `pplr pki list`."
                )
            for one in found:
                one.revoked = _now().isoformat()
        return len(found)

    def issued(self) -> list[Issued]:
        """Return all certificates, oldest first."""
        path = self.folder / "authority" / "issued.json"
        return [Issued(**entry) for entry in json.loads(path.read_text(encoding="utf-8"))] if path.is_file() else []

    @contextmanager
    def _book(self) -> Iterator[list[Issued]]:
        """Give the book to be changed, by one process at a time, and write it and the list of what was revoked."""
        folder = self.folder / "authority"
        with FileLock(folder / "lock"):
            book = self.issued()
            yield book
            write_text(folder / "issued.json", json.dumps([asdict(one) for one in book], indent=1))
            self._write_revocations(book)

    def _write_revocations(self, book: Sequence[Issued]) -> None:
        now = _now()
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._certificate().subject)
            .last_update(now - EARLIER)
            .next_update(now + timedelta(days=AUTHORITY_DAYS))
        )
        for one in book:
            if one.revoked:
                revoked = x509.RevokedCertificateBuilder().serial_number(int(one.serial, 16))
                builder = builder.add_revoked_certificate(
                    revoked.revocation_date(datetime.fromisoformat(one.revoked)).build()
                )
        signed = builder.sign(self._key(), hashes.SHA256())
        write_bytes(self.folder / CRL, signed.public_bytes(serialization.Encoding.PEM))

    def _certificate(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate((self.folder / CA).read_bytes())

    def _key(self) -> ec.EllipticCurvePrivateKey:
        key = serialization.load_pem_private_key((self.folder / "authority" / KEY).read_bytes(), password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ConfigError(
                f"The key of the authority in {self.folder} is of another kind than `pplr pki init` makes."
            )
        return key


_USES = {
    Role.TRUNK: [ExtendedKeyUsageOID.SERVER_AUTH],
    Role.COORDINATOR: [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH],  # silos and trunk
    Role.CLIENT: [ExtendedKeyUsageOID.CLIENT_AUTH],
}


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    """Write a key that its owner alone may read, also while it is written."""
    text = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.unlink(missing_ok=True)
    path.touch(mode=0o600, exist_ok=False)
    path.write_bytes(text)


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)
