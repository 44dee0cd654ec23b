"""Keys of SuperNodes: those of the silos' certificates, in the form that Flower reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from pplr.errors import ConfigError
from pplr.pki import Identity, Party, Role
from pplr.pki.authority import CERTIFICATE
from pplr.pki.look import check_issuer
from pplr.pki.party import Revocations
from pplr.storage import make_folder


def private_key(certificates: Path, name: str, folder: Path) -> Path:
    """Write the silo's own key into `folder` as OpenSSH has it, readable by its owner alone, and return the file.

    Raises:
        ConfigError: the silo has no certificate.
    """
    party = Party.load(certificates, Identity(Role.CLIENT, name))
    key = serialization.load_pem_private_key(party.key, password=None)
    text = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    make_folder(folder)
    path = folder / "node-key"
    path.unlink(missing_ok=True)
    path.touch(mode=0o600, exist_ok=False)
    path.write_bytes(text)
    return path


def public_keys(certificates: Path, names: Sequence[str], folder: Path) -> dict[str, Path]:
    """Write the public keys of the silos' certificates into `folder`, and return a file for each name.

    Raises:
        ConfigError: a certificate is missing, or was not issued by the authority, or is for somebody else.
        RunError: it was revoked.
    """
    make_folder(folder)
    revocations = Revocations(certificates)
    files = {}
    for number, name in enumerate(names):
        path = certificates / Identity(Role.CLIENT, name).folder / CERTIFICATE
        if not path.is_file():
            raise ConfigError(
                f"{path} does not exist, so nobody can tell whether {name} is who it says. Copy the silo's "
                "certificate.pem (not its key) from where it was made."
            )
        content = path.read_bytes()
        certificate = x509.load_pem_x509_certificate(content)
        check_issuer(certificate, path, certificates)
        if revocations.judged(content) != Identity(Role.CLIENT, name):
            raise ConfigError(f"{path} is not for the client {name}. Copy the right one.")
        files[name] = folder / f"{number}.pub"
        files[name].write_bytes(
            certificate.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
        )
    return files
