"""Folders of a deployment: each party has what it needs, and nothing of another one's."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from pathlib import Path, PurePosixPath

import pytest
from cryptography import x509

from pplr.address import Address
from pplr.config import Config, load_config
from pplr.deployment import planned, write_deployment
from pplr.errors import ConfigError
from pplr.pki import Authority, Identity, Party, Revocations, Role
from pplr.silos.announcement import settings_of
from pplr.silos.keys import private_key, public_keys
from pplr.trunk.build import run_digest
from whole_runs import configuration

NAMES = ("shop 1", "Läden")
SPLIT = {"kind": "split", "bottom": 0, "top": 1, "codec": "bfloat16"}
COORDINATOR, TRUNK = Address("rounds.example.org", 8000), Address("10.0.0.7", 7443)


@pytest.fixture(scope="module")
def config(files: Path) -> Config:
    return configuration(files, "generative", placement=SPLIT)


@pytest.fixture(scope="module")
def folder(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deployment") / "shops"
    write_deployment(planned(config, COORDINATOR, TRUNK, NAMES), folder)
    return folder


def parties(folder: Path) -> dict[Path, Identity]:
    silos = {folder / "silos" / "shop 1": "shop 1", folder / "silos" / "L%C3%A4den": "Läden"}
    return {
        folder / "coordinator": Identity(Role.COORDINATOR, "coordinator"),
        folder / "trunk": Identity(Role.TRUNK, "trunk"),
        **{place: Identity(Role.CLIENT, name) for place, name in silos.items()},
    }


def test_each_key_is_in_its_owners_folder_alone(folder: Path) -> None:
    keys = sorted(path.relative_to(folder) for path in folder.rglob("key.pem"))
    expected = [Path("authority/authority/key.pem")]
    for place, identity in parties(folder).items():
        party = Party.load(place / "certificates", identity)
        assert party.authority == (folder / "authority" / "ca.pem").read_bytes()
        expected.append((place / "certificates" / identity.folder / "key.pem").relative_to(folder))
    assert keys == sorted(expected)
    for key in keys:
        assert stat.S_IMODE((folder / key).stat().st_mode) == 0o600
    contents = [(folder / key).read_bytes() for key in keys]
    for path in folder.rglob("*"):
        if path.is_file() and path.name != "key.pem":
            assert not any(content in path.read_bytes() for content in contents)


def test_a_silos_folder_has_nothing_of_another_silo(folder: Path) -> None:
    for place, identity in parties(folder).items():
        if identity.role is not Role.CLIENT:
            continue
        (other,) = set(NAMES) - {identity.name}
        for path in place.rglob("*"):
            assert other not in str(path.relative_to(folder)), path
            assert not path.is_file() or other.encode() not in path.read_bytes(), path


def test_the_names_of_both_networks_are_those_of_one_certificate(folder: Path, tmp_path: Path) -> None:
    known = public_keys(folder / "coordinator" / "certificates", NAMES, tmp_path / "public")
    for place, identity in parties(folder).items():
        if identity.role is Role.CLIENT:
            own = private_key(place / "certificates", identity.name, tmp_path / identity.folder)
            public = subprocess.run(["ssh-keygen", "-y", "-f", str(own)], capture_output=True, check=True).stdout
            assert public.split()[:2] == known[identity.name].read_bytes().split()[:2]
            certificate = (place / "certificates" / identity.folder / "certificate.pem").read_bytes()
            assert Revocations(folder / "trunk" / "certificates").judged(certificate) == identity


def test_servers_are_certified_for_the_addresses_that_were_given(folder: Path) -> None:
    for party, name in (("coordinator", "rounds.example.org"), ("trunk", "10.0.0.7")):
        path = folder / party / "certificates" / party / "certificate.pem"
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        hosts = names.get_values_for_type(x509.DNSName) + [
            str(address) for address in names.get_values_for_type(x509.IPAddress)
        ]
        assert name in hosts and "127.0.0.1" in hosts


def test_configurations_agree_where_they_must_and_name_each_partys_own_files(folder: Path, files: Path) -> None:
    loaded = {place: load_config(place / "config.toml") for place in parties(folder)}
    assert len({frozenset(settings_of(config).items()) for config in loaded.values()}) == 1
    assert len({run_digest(config) for config in loaded.values()}) == 1
    for place, config in loaded.items():
        assert config.placement.server == "10.0.0.7:7443"
        assert config.placement.certificates == str(place / "certificates")
    assert loaded[folder / "coordinator"].federation.silos == NAMES
    assert "[data]" not in (folder / "trunk" / "config.toml").read_text()
    silo = loaded[folder / "silos" / "shop 1"]
    assert silo.data.events == folder / "silos" / "shop 1" / "data" / "events.csv"
    assert not silo.data.events.exists(), "events are the silo's own"
    assert silo.data.items.read_bytes() == (files / "items.csv").read_bytes()


def test_scripts_call_pplr_with_what_is_in_their_folder(folder: Path, tmp_path: Path) -> None:
    program = tmp_path / "pplr"
    program.write_text('#!/bin/sh\npwd\nfor word in "$@"; do echo "$word"; done\n')
    program.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}

    def called(place: Path, script: str) -> list[str]:
        done = subprocess.run([place / script, "--more"], capture_output=True, text=True, check=True, env=environment)
        where, *words = done.stdout.splitlines()
        assert where == str(place)
        return words

    common = ["--certificates", "certificates", "--more"]
    silo = ["config.toml", "--name", "shop 1", "--state", "state", "--coordinator", "rounds.example.org:8000", *common]
    assert called(folder / "silos" / "shop 1", "start") == ["silo", "run", *silo]
    assert called(folder / "silos" / "shop 1", "check") == ["silo", "check", *silo]
    trunk = ["config.toml", "--listen", "0.0.0.0:7443", "--state", "state", *common]
    assert called(folder / "trunk", "start") == ["trunk", "serve", *trunk]
    assert called(folder / "trunk", "check") == ["trunk", "check", *trunk]
    rounds = ["config.toml", "--listen", "0.0.0.0:8000", "--out", "run", "--certificates", "certificates"]
    assert called(folder / "coordinator", "start") == ["coordinator", "run", *rounds, "--more"]
    (folder / "coordinator" / "run").mkdir()
    (folder / "coordinator" / "run" / "run.json").touch()
    assert called(folder / "coordinator", "start") == ["coordinator", "run", *rounds, "--resume", "--more"]
    (folder / "coordinator" / "run" / "metrics.json").touch()
    assert called(folder / "coordinator", "start") == ["coordinator", "run", *rounds, "--more"]
    shutil.rmtree(folder / "coordinator" / "run")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="this machine has no systemd")
def test_systemd_reads_the_units_of_folders_that_lie_where_was_said(config: Config, tmp_path: Path) -> None:
    home, folder = tmp_path / "100% pplr", tmp_path / "shops"
    write_deployment(planned(config, COORDINATOR, TRUNK, NAMES, home=PurePosixPath(home)), folder)
    for place in parties(folder):
        shutil.copytree(place, home / place.name)
    units = sorted(home.rglob("*.service"))
    assert len({unit.name for unit in units}) == 4
    for unit in units:
        done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
        assert done.returncode == 0 and str(home) not in done.stderr, done.stderr


def test_a_folder_that_is_there_is_not_touched(folder: Path, config: Config) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with pytest.raises(ConfigError, match="exists already, and keys that were given out are not replaced"):
        write_deployment(planned(config, COORDINATOR, TRUNK, NAMES), folder)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_the_authority_issues_and_revokes_afterwards(folder: Path) -> None:
    authority = Authority(folder / "authority")
    new = authority.issue(Identity(Role.CLIENT, "later"))
    assert authority.revoke(Identity(Role.CLIENT, "later")) == 1
    with pytest.raises(Exception, match="was revoked"):
        Revocations(folder / "authority").judged((new / "certificate.pem").read_bytes())


def test_what_does_not_fit_is_a_sentence_each(config: Config, files: Path) -> None:
    def problems(config: Config, *arguments, **options) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            planned(config, *arguments, **options)
        assert all(problem.endswith((".", "'.")) for problem in caught.value.problems)
        return list(caught.value.problems)

    assert "Say where it will be: --trunk-address" in problems(config, COORDINATOR, None, NAMES)[0]
    assert "Give them different ports" in problems(config, COORDINATOR, COORDINATOR, NAMES)[0]
    assert "Others cannot reach 0.0.0.0:1" in problems(config, Address("0.0.0.0", 1), TRUNK, NAMES)[0]
    assert "Nobody says which silos take part" in problems(config, COORDINATOR, TRUNK)[0]
    assert "is named 2 times" in problems(config, COORDINATOR, TRUNK, ("a", "a"))[0]
    for name in ("a/b", 'a"b', "x" * 61, ".."):
        assert problems(config, COORDINATOR, TRUNK, (name,)), name
    whole = configuration(files)
    assert "Leave --trunk-address out" in problems(whole, COORDINATOR, TRUNK, NAMES)[0]
    pooling = configuration(files, strategy={"kind": "centralised"})
    assert "pools all data in one place" in problems(pooling, COORDINATOR, None, NAMES)[0]
    dealt = configuration(files, clients={"kind": "random", "count": 2})
    assert "Set clients.kind to 'column'" in problems(dealt, COORDINATOR)[0]
    demo = configuration(files, data={"demo": "movietweetings"}, clients={"kind": "random", "count": 2})
    assert planned(demo, COORDINATOR).silos == ("client-0", "client-1")
    assert "none is called 'client-3'. Did you mean 'client-1'?" in problems(demo, COORDINATOR, None, ("client-3",))[0]
    whole_demo = configuration(files, data={"demo": "movietweetings"}, clients={"kind": "column"})
    assert "each silo would train on all of it" in problems(whole_demo, COORDINATOR, None, NAMES)[0]
