"""A split model over silos: coordinator, trunk's server and silos as processes give the numbers of one process."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import polars as pl
import pytest

import pplr
from parties import PPLR, Parties, Party
from pplr.config import config_toml
from pplr.run_folder import held
from pplr.silos.life import identity
from pplr.silos.plan import work_folder
from pplr.silos.processes import free_port
from trunk_state import clients_kept
from whole_runs import assert_numbers_agree, configuration, copied

SILOS = ["shop-1", "shop-2", "shop-3"]
COMMON = {
    "name": "shop",
    "federation": {"rounds": 2, "silos": SILOS},
    "training": {"epochs": 1, "batch_tokens": 3000, "max_examples": 60, "learning_rate": 1e-3},
    "evaluation": {"max_users": 5, "select_by": "ndcg@10", "baselines": False, "ks": [5, 10]},
}
DOCUMENTED = Path(__file__).parents[2] / "docs" / "split.md"


@pytest.fixture(scope="module")
def shops(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data of the silos that the documentation names."""
    folder = copied(files, tmp_path_factory.mktemp("shops") / "files")
    events = pl.read_csv(folder / "events.csv", schema_overrides={"item": pl.String})
    events.with_columns(pl.col("silo").replace("shop-0", "shop-3")).write_csv(folder / "events.csv")
    return folder


def split_configuration(shops: Path, folder: Path, trunk: str) -> str:
    placement = {"kind": "split", "bottom": 0, "top": 1, "server": trunk, "codec": "float32", "pieces": 1}
    placement["certificates"] = str(folder / "certificates")
    return config_toml(configuration(shops, "generative", placement=placement, **COMMON))


def documented_commands(rounds: str, trunk: str) -> list[list[str]]:
    """The lines of the section about three kinds of parties, at addresses that are free."""
    section = DOCUMENTED.read_text().partition("## Coordinator, trunk's server, silos")[2].partition("\n## ")[0]
    lines = [line.strip() for line in section.splitlines() if line.startswith("    pplr ")]
    text = "\n".join(lines).replace("127.0.0.1:8000", rounds).replace("127.0.0.1:7443", trunk)
    return [shlex.split(line)[1:] for line in text.splitlines()]


@pytest.mark.slow
def test_documented_commands_give_the_numbers_of_one_process_also_after_the_coordinator_was_killed(
    shops: Path, tmp_path: Path
) -> None:
    pplr.run(configuration(shops, "generative", placement={"kind": "whole"}, **COMMON), tmp_path / "whole")
    rounds, trunk = (f"127.0.0.1:{free_port()}" for _ in range(2))
    (tmp_path / "shop.toml").write_text(split_configuration(shops, tmp_path, trunk))
    pki, *servers, coordinator = documented_commands(rounds, trunk)
    assert [words[0] for words in servers] == ["trunk", "silo", "silo", "silo"]
    assert Party(tmp_path, "pki.log", *PPLR, *pki).ended() == 0
    with Parties() as parties:
        for number, words in enumerate(servers):
            parties.start(tmp_path, f"{number}.log", *PPLR, *words)
        first = parties.start(tmp_path, "coordinator.log", *PPLR, *coordinator)
        first.until(lambda: "Round 2 of 2, shop-" in first.said)
        first.kill()  # the trunk's server has taken steps of round 2, and goes back to the end of round 1
        again = parties.start(tmp_path, "coordinator.log", *PPLR, *coordinator, "--resume")
        assert again.ended() == 0, again.said[-2000:]
    run = tmp_path / "runs" / "shop"
    assert_numbers_agree(run, tmp_path / "whole", rel=1e-6)
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    assert [event["round"] for event in events if event["event"] == "resumed"] == [1]
    assert (tmp_path / "state" / "shop-1" / "result" / "rows.safetensors").is_file()


@pytest.mark.slow
def test_the_trunk_goes_on_without_a_silo_that_has_left_for_good(shops: Path, tmp_path: Path) -> None:
    rounds, trunk = (f"127.0.0.1:{free_port()}" for _ in range(2))
    (tmp_path / "shop.toml").write_text(split_configuration(shops, tmp_path, trunk))
    pki, *servers, coordinator = documented_commands(rounds, trunk)
    assert Party(tmp_path, "pki.log", *PPLR, *pki).ended() == 0
    run = tmp_path / "runs" / "shop"
    with Parties() as parties:
        running = [parties.start(tmp_path, f"{number}.log", *PPLR, *words) for number, words in enumerate(servers)]
        first = parties.start(tmp_path, "coordinator.log", *PPLR, *coordinator)
        first.until(lambda: "Round 2 of 2, shop-" in first.said)
        plan = json.loads((work_folder(run) / "plan.json").read_text())
        assert plan["coordinator"] == identity(first.process.pid)
        first.kill()
        with held(run, wait=10.0):
            pass
        (gone,) = (party for party, words in zip(running, servers, strict=True) if "shop-2" in words)
        gone.kill()
        forgetting = Party(tmp_path, "forget.log", *PPLR, "coordinator", "forget", "shop-2", "--out", str(run))
        assert forgetting.ended() == 0, forgetting.said
        again = parties.start(tmp_path, "coordinator.log", *PPLR, *coordinator, "--resume")
        assert again.ended() == 0, again.said[-2000:]
    metrics = json.loads((run / "metrics.json").read_text())
    assert sorted(metrics["clients"]) == ["shop-1", "shop-3"]
    assert [event["round"] for event in metrics["rounds"]] == [1, 2]
    assert clients_kept(tmp_path / "trunk-state") == {"shop-1", "shop-3"}
