"""Certificates prove who somebody is, to OpenSSL's own verification as well as to ours, until they are revoked."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from cryptography import x509

from pplr.errors import ConfigError, RunError
from pplr.pki import Authority, Identity, Party, Revocations, Role, identity_of

ADA, TRUNK = Identity(Role.CLIENT, "Ada & Söhne"), Identity(Role.TRUNK, "trunk")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    made = Authority.create(tmp_path / "certificates")
    made.issue(ADA)
    made.issue(TRUNK, ["localhost", "127.0.0.1"])
    return made


def openssl(*words: str | Path) -> str:
    done = subprocess.run(["openssl", *map(str, words)], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def certificate(authority: Authority, identity: Identity) -> Path:
    return authority.folder / identity.folder / "certificate.pem"


def test_openssl_accepts_what_was_issued_for_its_purpose_only(authority: Authority) -> None:
    ca = authority.folder / "ca.pem"
    verify = ("verify", "-x509_strict", "-CAfile", ca, "-crl_check", "-CRLfile", authority.folder / "crl.pem")
    assert ": OK" in openssl(*verify, "-purpose", "sslclient", certificate(authority, ADA))
    assert ": OK" in openssl(*verify, "-purpose", "sslserver", certificate(authority, TRUNK))
    assert ": OK" not in openssl(*verify, "-purpose", "sslserver", certificate(authority, ADA))
    assert ": OK" not in openssl(*verify, "-purpose", "sslclient", certificate(authority, TRUNK))
    text = openssl("x509", "-in", certificate(authority, TRUNK), "-noout", "-text")
    assert "URI:pplr://trunk/trunk" in text
    assert "DNS:localhost, IP Address:127.0.0.1" in text
    assert "prime256v1" in text


def test_who_somebody_is_stands_in_the_certificate(authority: Authority) -> None:
    pem = certificate(authority, ADA).read_bytes()
    assert identity_of(x509.load_pem_x509_certificate(pem)) == ADA
    assert Revocations(authority.folder).judged(pem) == ADA
    with pytest.raises(RunError, match="does not say whom it is for"):
        identity_of(x509.load_pem_x509_certificate((authority.folder / "ca.pem").read_bytes()))


def test_a_revoked_certificate_is_refused_at_once_and_a_new_one_is_not(authority: Authority) -> None:
    judge, old = Revocations(authority.folder), certificate(authority, ADA).read_bytes()
    assert judge.judged(old) == ADA
    assert authority.revoke(ADA) == 1
    with pytest.raises(RunError, match="certificate of client Ada & Söhne was revoked"):
        judge.judged(old)
    crl = authority.folder / "crl.pem"
    said = openssl(
        "verify", "-CAfile", authority.folder / "ca.pem", "-crl_check", "-CRLfile", crl, certificate(authority, ADA)
    )
    assert "certificate revoked" in said
    authority.issue(ADA)
    assert judge.judged(certificate(authority, ADA).read_bytes()) == ADA
    with pytest.raises(RunError, match="was revoked"):
        judge.judged(old)


def test_without_a_list_of_the_authority_nobody_is_let_in(authority: Authority, tmp_path: Path) -> None:
    judge, pem = Revocations(authority.folder), certificate(authority, ADA).read_bytes()
    other = Authority.create(tmp_path / "other")
    crl = authority.folder / "crl.pem"
    crl.write_bytes((other.folder / "crl.pem").read_bytes())
    with pytest.raises(RunError, match="not signed by the authority"):
        judge.judged(pem)
    crl.write_text("nothing")
    with pytest.raises(RunError, match="cannot be read"):
        judge.judged(pem)
    crl.unlink()
    with pytest.raises(RunError, match="cannot be read"):
        judge.judged(pem)


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")
def test_keys_are_for_their_owner_alone(authority: Authority) -> None:
    keys = list(authority.folder.rglob("key.pem"))
    assert len(keys) == 3
    assert {path.stat().st_mode & 0o777 for path in keys} == {0o600}
    Party.load(authority.folder, ADA)
    key = authority.folder / ADA.folder / "key.pem"
    key.chmod(0o644)
    with pytest.raises(ConfigError, match="Others may read the key"):
        Party.load(authority.folder, ADA)


def test_a_party_needs_no_more_than_its_own_files(authority: Authority, tmp_path: Path) -> None:
    own = tmp_path / "silo"
    (own / ADA.folder).mkdir(parents=True)
    for name in ("ca.pem", f"{ADA.folder}/certificate.pem", f"{ADA.folder}/key.pem"):
        (own / name).write_bytes((authority.folder / name).read_bytes())
        (own / name).chmod(0o600)
    assert Party.load(own, ADA).certificate == certificate(authority, ADA).read_bytes()
    with pytest.raises(ConfigError, match=r"the coordinator cannot prove who it is.*pki issue .* --coordinator"):
        Party.load(own, Identity(Role.COORDINATOR, "coordinator"))
    (own / "clients" / "bob").symlink_to(own / ADA.folder)
    with pytest.raises(ConfigError, match="is for client Ada & Söhne, not for client bob"):
        Party.load(own, Identity(Role.CLIENT, "bob"))


@pytest.mark.parametrize("name", ["", "a/b", "..", "x" * 61, "a\nb", "a\\b"])
def test_names_that_would_not_stay_in_their_folder_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="A certificate cannot be for"):
        Identity(Role.CLIENT, name)


def test_there_is_one_authority_in_a_folder(authority: Authority) -> None:
    with pytest.raises(ConfigError, match=r"an authority in .* already"):
        Authority.create(authority.folder)
    with pytest.raises(ConfigError, match=r"no valid certificate of client Ada & Sohne\. Did you mean 'Ada & Söhne'"):
        authority.revoke(Identity(Role.CLIENT, "Ada & Sohne"))
