"""A federation whose trunk is reached through links gives the numbers of the federation that has it in one piece."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from pplr import run, wiring
from pplr.models.hub import resolve
from pplr.trunk.access import DirectAccess
from pplr.trunk.build import LoadedTrunk, agreement
from whole_runs import assert_numbers_agree, configuration, run_interrupted

COMMON = {
    "federation": {"rounds": 2},
    "training": {"epochs": 2, "batch_tokens": 3000, "max_examples": 60, "learning_rate": 1e-3, "clip_norm": 0.5},
    "evaluation": {"max_users": 5},
}


def split(pieces: int) -> dict[str, object]:
    return {"kind": "split", "bottom": 0, "top": 1, "server": "127.0.0.1:1", "pieces": pieces}


def direct(monkeypatch: pytest.MonkeyPatch) -> list[DirectAccess]:
    """Have runs reach their trunk in this process."""
    made = []

    def reach(config, files, clients):
        if config.placement.kind == "whole":
            return None
        made.append(DirectAccess(LoadedTrunk(config, files, torch.device("cpu")).work(clients)))
        return made[-1]

    monkeypatch.setattr(wiring, "reach_trunk", reach)
    return made


@pytest.mark.parametrize("backbone", ["generative", "encoder"])
@pytest.mark.parametrize(
    ("strategy", "pieces"),
    [
        ({"kind": "pplr", "similarity": "updates"}, 1),
        ({"kind": "pplr", "similarity": "parameters"}, 2),
        ({"kind": "fedavg"}, 2),
        ({"kind": "fedprox", "mu": 5.0}, 1),
        ({"kind": "fedper", "layers": 2}, 1),
        ({"kind": "ffa"}, 2),
    ],
    ids=["updates", "parameters", "fedavg", "fedprox", "fedper", "ffa"],
)
def test_a_run_over_links_ends_like_a_whole_one(files: Path, tmp_path: Path, monkeypatch, backbone, strategy, pieces):
    direct(monkeypatch)
    common = {**COMMON, "strategy": strategy}
    if backbone == "generative":
        common["evaluation"] = {"max_users": 5, "select_by": "ndcg@10"}
    for name, placement in (("whole", {"kind": "whole"}), ("split", split(pieces))):
        config = configuration(files, backbone, placement=placement, **common)
        if pieces > 1:  # each piece draws its own dropout
            without = config.backbone.adapter.model_copy(update={"dropout": 0.0})
            config = config.model_copy(update={"backbone": config.backbone.model_copy(update={"adapter": without})})
        run(config, tmp_path / name)
    assert_numbers_agree(tmp_path / "split", tmp_path / "whole")
    examples = [json.loads((tmp_path / name / "examples.json").read_text()) for name in ("split", "whole")]
    shown = [[[item["id"] for item in user["recommended"]] for user in one] for one in examples]
    assert shown[0] == shown[1]


@pytest.mark.parametrize("absent", ["take", "keep"])
def test_who_sits_out_a_round_gets_from_the_trunk_what_it_would_get_from_a_whole_row(
    files: Path, tmp_path: Path, monkeypatch, absent: str
) -> None:
    direct(monkeypatch)
    federation = {"rounds": 3, "participation": 2}
    common = {**COMMON, "federation": federation, "strategy": {"kind": "pplr", "absent": absent}}
    for name, placement in (("whole", {"kind": "whole"}), ("split", split(1))):
        run(configuration(files, "encoder", placement=placement, **common), tmp_path / name)
    assert_numbers_agree(tmp_path / "split", tmp_path / "whole")
    rounds = json.loads((tmp_path / "split" / "metrics.json").read_text())["rounds"]
    assert any(not client["trained"] for record in rounds for client in record["clients"].values())


def test_a_resumed_run_takes_the_trunk_back_with_it(files: Path, tmp_path: Path, monkeypatch) -> None:
    made = direct(monkeypatch)
    config = configuration(files, "generative", placement=split(1), **COMMON)
    run(config, tmp_path / "straight")
    run_interrupted(config, tmp_path / "broken", "client_trained")
    kept = made[-1]
    monkeypatch.setattr(wiring, "reach_trunk", lambda config, files, clients: kept)
    run(config, tmp_path / "broken", resume=True)
    assert_numbers_agree(tmp_path / "broken", tmp_path / "straight")


def test_the_cut_model_is_of_this_configuration(files: Path) -> None:
    config = configuration(files, "generative", placement=split(1))
    trunk = LoadedTrunk(config, resolve(config.backbone.model), torch.device("cpu"))
    assert all(".layers." in spec.name for spec in trunk.layout.specs)


def test_the_server_must_know_of_a_strategy_that_reaches_into_its_layers(files: Path) -> None:
    model = resolve(configuration(files, "generative").backbone.model)

    def agreed(**strategy):
        return agreement(configuration(files, "generative", placement=split(1), strategy=strategy), model)

    same = [{"kind": "fedavg"}, {"kind": "pplr", "alpha": 2.0}, {"kind": "fedprox", "mu": 0.0}]
    assert len({agreed(**one).settings for one in same}) == 1
    other = [{"kind": "fedprox"}, {"kind": "fedprox", "mu": 3.0}, {"kind": "ffa"}, {"kind": "fedper"}]
    assert len({agreed(**one).settings for one in [*other, {"kind": "fedper", "layers": 2}, same[0]]}) == 6
