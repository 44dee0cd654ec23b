"""Folders of a deployment with a catalogue's server: each party starts from its own, and finds out before whether it can."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from catalogue_process import CatalogueProcess

from pplr.address import Address
from pplr.config import load_config
from pplr.deployment import planned, write_deployment
from pplr.errors import ConfigError
from pplr.pki import Identity, Party, Role
from whole_runs import configuration

COORDINATOR, CATALOGUE = Address("rounds.example.org", 8000), Address("127.0.0.1", 7444)
SILOS = ("shop-0", "shop-1")


@pytest.fixture(scope="module")
def folder(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deployment") / "shops"
    config = configuration(files, placement={"kind": "catalogue"})
    write_deployment(planned(config, COORDINATOR, silos=SILOS, catalogue=CATALOGUE), folder)
    return folder


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def pplr(folder: Path, *words: str) -> tuple[int, str]:
    """Run a command in a folder; return its exit code, and all that it says in one line."""
    environment = os.environ | {"PPLR_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pplr", *words]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    return done.returncode, " ".join((done.stdout + done.stderr).split())


def test_parties_have_what_they_need(folder: Path, files: Path) -> None:
    for place in ("catalogue", "silos/shop-0", "silos/shop-1"):
        config = load_config(folder / place / "config.toml")
        assert config.placement.server == "127.0.0.1:7444"
        assert config.placement.certificates == str(folder / place / "certificates")
        assert config.data.items.read_bytes() == (files / "items.csv").read_bytes()
        assert not config.data.events.exists(), "events are the silos' own"
    assert not (folder / "coordinator" / "data").exists()
    assert Party.load(folder / "catalogue" / "certificates", Identity(Role.TRUNK, "trunk"))
    start = (folder / "catalogue" / "start").read_text()
    assert "catalogue serve config.toml --listen 0.0.0.0:7444 --state state --certificates certificates" in start
    check = (folder / "catalogue" / "check").read_text()
    assert "catalogue check config.toml --listen 0.0.0.0:7444 --state state --certificates certificates" in check
    assert 'catalogue/start"' in (folder / "catalogue" / "pplr-tiny-catalogue.service").read_text()


def test_a_server_from_its_folder_answers_a_silo_from_its_own(folder: Path) -> None:
    place, silo = folder / "catalogue", folder / "silos" / "shop-1"
    code, said = pplr(
        place,
        "catalogue",
        "check",
        "config.toml",
        "--listen",
        f"127.0.0.1:{free_port()}",
        "--certificates",
        "certificates",
    )
    assert code == 0, said
    assert "30, texts of digest" in said and "bert" in said and "signed by the authority" in said
    server = CatalogueProcess(place / "config.toml", place / "state", place / "certificates")
    try:
        at = f"placement.server={server.address}"
        code, said = pplr(silo, "catalogue", "check", "config.toml", "--client", "shop-1", "--set", at)
        assert code == 0, said
        assert f"The catalogue's server at {server.address} is there" in said
        assert "It has 30 vectors of 16 numbers, made by" in said
        code, said = pplr(
            silo,
            "catalogue",
            "check",
            "config.toml",
            "--client",
            "shop-1",
            "--set",
            at,
            "--set",
            "backbone.item_tokens=7",
        )
        assert code != 0 and "backbone.item_tokens (7 here, 48 there) differ" in said
    finally:
        server.kill()
    code, said = pplr(silo, "catalogue", "check", "config.toml", "--client", "shop-1", "--set", at)
    assert code != 0 and "does not answer" in said and "Is it running" in said


def test_what_is_missing_is_found_before_the_server_is_started(folder: Path, tmp_path: Path) -> None:
    text = (folder / "catalogue" / "config.toml").read_text()
    (tmp_path / "config.toml").write_text(text)
    code, said = pplr(tmp_path, "catalogue", "check", "config.toml", "--listen", f"127.0.0.1:{free_port()}")
    assert code != 0
    for words in ("items.csv", "certificate"):
        assert words in said


def test_the_address_of_the_server_is_asked_for_and_only_where_there_is_one(files: Path) -> None:
    fetched, whole = configuration(files, placement={"kind": "catalogue"}), configuration(files)
    with pytest.raises(ConfigError, match=r"Say where it will be: --catalogue-address HOST:PORT"):
        planned(fetched, COORDINATOR, silos=SILOS)
    with pytest.raises(ConfigError, match=r"Leave --catalogue-address out"):
        planned(whole, COORDINATOR, silos=SILOS, catalogue=CATALOGUE)
    with pytest.raises(ConfigError, match=r"cannot both be at rounds\.example\.org:8000"):
        planned(fetched, COORDINATOR, silos=SILOS, catalogue=COORDINATOR)
    named = configuration(files, placement={"kind": "catalogue", "server": "vectors.example.org:7444"})
    assert planned(named, COORDINATOR, silos=SILOS).catalogue == Address("vectors.example.org", 7444)
