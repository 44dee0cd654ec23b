"""Coordinator, trunk's server and three silos on three machines, from the folders that `pplr deploy init` has written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import polars as pl
import pytest

import pplr
from machines import machines
from parties import PPLR, Parties, Party
from pplr.config import config_toml
from pplr.silos.processes import free_port
from whole_runs import assert_numbers_agree, configuration

SILOS = ("shop-0", "shop-1", "shop-2")
COMMON = {
    "federation": {"rounds": 1},
    "training": {"epochs": 1, "batch_tokens": 3000, "max_examples": 60, "learning_rate": 1e-3},
    "evaluation": {"max_users": 5, "select_by": "ndcg@10", "baselines": False, "ks": [5, 10]},
}
SPLIT = {"kind": "split", "bottom": 0, "top": 1, "pieces": 1}


def given_its_events(folder: Path, events: Path, name: str) -> None:
    """Give a silo a file of its own events, of which shop-2's does not say whose they are."""
    own = pl.read_csv(events, schema_overrides={"item": pl.String}).filter(pl.col("silo") == name)
    if name == "shop-2":
        own = own.drop("silo")
        config = folder / "config.toml"
        config.write_text(config.read_text().replace('silo = "silo"\n', ""))
    own.write_csv(folder / "data" / "events.csv")


@pytest.mark.slow
def test_folders_of_a_deployment_train_on_three_machines(
    files: Path, tmp_path: Path, record_property: pytest.FixtureRequest
) -> None:
    pplr.run(configuration(files, "generative", **COMMON), tmp_path / "whole")
    (tmp_path / "shop.toml").write_text(config_toml(configuration(files, "generative", placement=SPLIT, **COMMON)))
    with machines(3) as (what, (first, second, third)), Parties() as parties:
        record_property("machines", what)
        addresses = [f"{first.address}:{free_port()}" for _ in range(2)]
        options = ("--coordinator-address", addresses[0], "--trunk-address", addresses[1])
        silos = [word for name in SILOS for word in ("--silo", name)]
        init = Party(tmp_path, "init.log", *PPLR, "deploy", "init", "shop.toml", "shops", *options, *silos)
        assert init.ended() == 0, init.said
        shutil.copytree(tmp_path / "shops" / "coordinator", tmp_path / "first" / "coordinator")
        shutil.copytree(tmp_path / "shops" / "trunk", tmp_path / "first" / "trunk")
        for name, place in zip(SILOS, ("second", "second", "third"), strict=True):
            shutil.copytree(tmp_path / "shops" / "silos" / name, tmp_path / place / name)
            given_its_events(tmp_path / place / name, files / "events.csv", name)
        shutil.rmtree(tmp_path / "shops")
        coordinator = tmp_path / "first" / "coordinator"
        parties.start(tmp_path / "first" / "trunk", "log", *first.enter, "./start")
        for name, place, machine in zip(SILOS, ("second", "second", "third"), (second, second, third), strict=True):
            parties.start(tmp_path / place / name, "log", *machine.enter, "./start")
        rounds = parties.start(coordinator, "log", *first.enter, "./start")
        rounds.until(lambda: "Waiting for shop-0, shop-1, shop-2" in rounds.said)
        check = parties.start(tmp_path / "third" / "shop-2", "check.log", *third.enter, "./check")
        assert rounds.ended() == 0, rounds.said[-2000:]
        status = Party(coordinator, "status", *PPLR, "status", "--json")
        assert check.ended() == 0, check.said
        assert status.ended() == 0, status.said
        user = pl.read_parquet(tmp_path / "third" / "shop-2" / "state" / "result" / "per_user.parquet")["user"][0]
        words = ("recommend", "state/result", "--user", user, "-k", "3", "--quiet", "--json")
        asked = Party(tmp_path / "third" / "shop-2", "recommended", *third.enter, *PPLR, *words)
        assert asked.ended() == 0, asked.said
    expected = pplr.Recommender.load(tmp_path / "whole").recommend("shop-2", user=user, k=3)
    recommended = json.loads(asked.said)
    assert recommended["client"] == "shop-2"
    assert [item["id"] for item in recommended["items"]] == [item.id for item in expected.items]
    assert_numbers_agree(coordinator / "run", tmp_path / "whole", rel=1e-6)
    found = json.loads(status.said)
    assert (found["phase"], found["round"]) == ("finished", 1)
    assert {silo["name"]: silo["state"] for silo in found["silos"]} == dict.fromkeys(SILOS, "alive")
    assert "shop-2 is here, with" in rounds.said
