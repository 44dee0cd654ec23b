"""Only certificates of the authority, for the right silo and not revoked, make a node's key."""

from __future__ import annotations

import shutil
import stat

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from pplr.address import Address
from pplr.errors import ConfigError, RunError
from pplr.pki import Authority, Identity, Role
from pplr.silos.keys import private_key, public_keys
from pplr.silos.processes import Security, security


def client(name: str) -> Identity:
    return Identity(Role.CLIENT, name)


@pytest.fixture
def folder(tmp_path):
    authority = Authority.create(tmp_path / "certificates")
    for name in ("shop-1", "shop two"):
        authority.issue(client(name))
    return authority.folder


def test_both_halves_are_those_of_the_certificate(folder, tmp_path):
    files = public_keys(folder, ["shop-1", "shop two"], tmp_path / "keys")
    for name, file in files.items():
        own = private_key(folder, name, tmp_path / "own")
        assert stat.S_IMODE(own.stat().st_mode) == 0o600
        key = serialization.load_ssh_private_key(own.read_bytes(), None).public_key()
        certificate = x509.load_pem_x509_certificate((folder / client(name).folder / "certificate.pem").read_bytes())
        assert key == serialization.load_ssh_public_key(file.read_bytes()) == certificate.public_key()


def test_others_get_no_key(folder, tmp_path):
    other = Authority.create(tmp_path / "other")
    other.issue(client("shop-1"))
    with pytest.raises(ConfigError, match=r"clients/shop-9/certificate\.pem does not exist"):
        public_keys(folder, ["shop-9"], tmp_path / "keys")
    shutil.copy(folder / client("shop two").folder / "certificate.pem", folder / client("shop-1").folder)
    with pytest.raises(ConfigError, match="is not for the client shop-1"):
        public_keys(folder, ["shop-1"], tmp_path / "keys")
    shutil.copy(other.folder / client("shop-1").folder / "certificate.pem", folder / client("shop-1").folder)
    with pytest.raises(ConfigError, match="not issued by the authority"):
        public_keys(folder, ["shop-1"], tmp_path / "keys")
    Authority(folder).revoke(client("shop two"))
    with pytest.raises(RunError, match="revoked"):
        public_keys(folder, ["shop two"], tmp_path / "keys")


def test_plain_text_stays_on_the_machine(tmp_path):
    for text in ("127.0.0.1:1", "localhost:8000", "[::1]:8000"):
        security(None, insecure=True).check(Address.parse(text))
    for text in ("0.0.0.0:8000", "10.0.0.1:8000", "rounds.example.org:443"):
        with pytest.raises(ConfigError, match="must be encrypted"):
            Security(None).check(Address.parse(text))
        Security(tmp_path).check(Address.parse(text))
    for wrong in ({"certificates": None, "insecure": False}, {"certificates": tmp_path, "insecure": True}):
        with pytest.raises(ConfigError, match="one of them"):
            security(**wrong)
    for text in ("8000", "host:", "host:0", "host:70000", ":8000"):
        with pytest.raises(ConfigError, match="HOST:PORT"):
            Address.parse(text)
