"""One configuration on three engines: in this process, on Ray's workers, and in processes that Flower connects."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

import pplr
from pplr.errors import RunError
from pplr.report.comparison import compare_runs
from pplr.runner import evaluate_run
from pplr.silos.one_machine import run_on_one_machine
from whole_runs import assert_numbers_agree, configuration


def settings(files: Path):
    own = {"kind": "sequence", "model": str(files / "bert"), "width": 16, "positions": 8, "bias": "private"}
    return configuration(
        files, backbone=own, federation={"rounds": 2}, evaluation={"baselines": False, "ks": [5, 10]},
        training={"epochs": 1, "batch_tokens": 600, "max_examples": 50},
        fusion={"statistics": ["transitions", "recent"]},
    )  # fmt: skip


@pytest.fixture(scope="module")
def here(files: Path, tmp_path_factory) -> Path:
    return pplr.run(settings(files), tmp_path_factory.mktemp("here") / "run").folder


def assert_recommends_and_measures(own: Path, whole: Path) -> None:
    """What a silo keeps of a run serves and measures its users as the run in one process does."""
    mine, all_of_them = pplr.Recommender.load(own), pplr.Recommender.load(whole)
    assert mine.clients == ("shop-1",)
    users = pl.read_parquet(own / "per_user.parquet")["user"].to_list()
    for user in users[:5]:
        found, expected = (one.recommend("shop-1", user=user, k=5) for one in (mine, all_of_them))
        assert [item.id for item in found.items] == [item.id for item in expected.items]
        assert [item.score for item in found.items] == pytest.approx([i.score for i in expected.items], abs=1e-4)
    expected = json.loads((whole / "metrics.json").read_text())["clients"]["shop-1"]
    for measured in (evaluate_run(own), json.loads((own / "metrics.json").read_text())):
        assert list(measured["clients"]) == ["shop-1"]
        assert measured["clients"]["shop-1"]["ndcg@10"] == pytest.approx(expected["ndcg@10"], abs=1e-6)
        assert measured["overall"]["users"] == expected["users"] == len(users)


@pytest.mark.slow
def test_lower_ranks_and_a_later_client_are_the_same_over_silos(files: Path, tmp_path: Path) -> None:
    config = configuration(
        files, "generative", strategy={"kind": "pplr"}, federation={"rounds": 3, "joins": {"shop-2": 3}},
        training={"epochs": 1, "batch_tokens": 3000, "max_examples": 30}, evaluation={"max_users": 5, "baselines": False},
    )  # fmt: skip
    adapter = config.backbone.adapter.model_copy(update={"rank": 4, "ranks": {"shop-1": 2, "shop-2": 1}})
    backbone = config.backbone.model_copy(update={"adapter": adapter})
    config = config.model_copy(update={"backbone": backbone})
    whole = pplr.run(config, tmp_path / "whole")
    result = run_on_one_machine(config, "flower", tmp_path / "run")
    assert_numbers_agree(result.folder, whole.folder, rel=1e-6)
    assert [record["awaited"] for record in result.metrics["rounds"]] == [["shop-2"], ["shop-2"], []]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["flower", "ray"])
def test_a_run_has_the_numbers_of_one_process(files: Path, tmp_path: Path, here: Path, engine) -> None:
    events = []
    result = run_on_one_machine(settings(files), engine, tmp_path / "run", observer=events.append)
    assert_numbers_agree(result.folder, here, rel=1e-6)
    assert {event.name for event in events} >= {"silo_connected", "round_finished", "tested", "run_finished"}
    only_here = {"per_user.parquet", "examples.json", "rows.safetensors", "adapters"}
    assert not only_here & {path.name for path in result.folder.iterdir()}, "figures of users left their silos"
    with pytest.raises(RunError, match="single users have stayed"):
        compare_runs([here, result.folder])
    with pytest.raises(RunError, match="one over silos"):
        pplr.Recommender.load(result.folder)
    own = tmp_path / "run.flower" / "silos" / "shop-1" / "result"
    identity = json.loads((result.folder / "run.json").read_text())["id"]
    assert len(identity) == 32 and (own.parent / "run").read_text() == identity
    assert_recommends_and_measures(own, here)
    assert result.metrics["model_alone"]["overall"]["ndcg@10"] != result.metrics["overall"]["ndcg@10"]
    assert "shop-0, shop-1, shop-2 are of the model mixed" in result.metrics["data"]["notes"][1]
    weights, expected = (json.loads((folder / "fusion.json").read_text()) for folder in (own, here))
    assert weights == {"shop-1": pytest.approx(expected["shop-1"], rel=1e-4, abs=1e-6)}
    assert not list(result.folder.rglob("fusion.json")), "weights have stayed in their silos"
    text = (result.folder / "metrics.json").read_text() + (result.folder / "events.jsonl").read_text()
    users = pl.read_parquet(here / "per_user.parquet")["user"].to_list()
    assert users
    assert not [user for user in users if f'"{user}"' in text]
    whole = json.loads((here / "metrics.json").read_text())["data"]
    counts = ("users", "items", "events", "test_users", "split")
    assert {key: result.metrics["data"][key] for key in counts} == {key: whole[key] for key in counts}
