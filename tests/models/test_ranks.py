"""Clients with adapters of lower rank: against runs of that rank, against NumPy's decomposition, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

import pplr
from pplr.errors import ConfigError
from pplr.models.layout import Layout, ParameterSpec, kaiming, normal
from pplr.models.peft_format import import_adapter
from pplr.models.ranks import RankLimits, limit_rank_
from pplr.runner import open_run
from whole_runs import assert_same_result, configuration, run_interrupted

SMALL = {
    "federation": {"rounds": 2},
    "evaluation": {"max_users": 5, "baselines": False},
    "training": {"epochs": 1, "batch_tokens": 3000, "max_examples": 30},
}
SHOPS = ("shop-0", "shop-1", "shop-2")
LAYOUT = Layout(
    [
        ParameterSpec("q.lora_A", (4, 6), kaiming),
        ParameterSpec("q.lora_B", (5, 4), normal(1.0)),
        ParameterSpec("v.lora_A", (4, 3), kaiming, private=True),
        ParameterSpec("v.lora_B", (2, 4), normal(1.0), private=True),
        ParameterSpec("bias", (3,), normal(1.0)),
    ]
)


def run(files, folder, strategy, kind="generative", **adapter):
    config = configuration(files, kind, strategy=strategy, **SMALL)
    backbone = config.backbone.model_copy(update={"adapter": type(config.backbone.adapter)(**adapter)})
    training = config.training.model_copy(
        update={"moments": "fresh"}
    )  # as with ranks, so that runs without are comparable
    config = config.model_copy(update={"backbone": backbone, "training": training})
    return pplr.run(config, folder).metrics


def adapters(folder):
    """The factors in each client's row, whole."""
    parts, rows = open_run(folder)
    views = {name: parts.backbone.layout.views(rows[name]) for name in SHOPS}
    return {name: {key: part for key, part in each.items() if "lora" in key} for name, each in views.items()}


def components(adapter):
    """Which components some factor has, over all adapters; A and B must say the same."""
    found = {}
    for name, factor in adapter.items():
        if "lora_A" in name:
            found.setdefault("A", set()).update(torch.nonzero(factor.any(1))[:, 0].tolist())
        elif "lora_B" in name:
            found.setdefault("B", set()).update(torch.nonzero(factor.any(0))[:, 0].tolist())
    assert found["A"] == found["B"]
    return found["A"]


@pytest.mark.parametrize("rank", [1, 3, 4])
@pytest.mark.parametrize("length", [LAYOUT.shared, LAYOUT.size])
def test_the_product_of_a_cut_row_is_that_of_its_first_components(rank, length):
    whole = LAYOUT.initial_row(3)[:length]
    row = whole.clone()
    limit_rank_(LAYOUT, row, rank)
    before, after = LAYOUT.views(whole), LAYOUT.views(row)
    for stem in {name.split(".")[0] for name in before if "lora" in name}:
        a, b = before[f"{stem}.lora_A"], before[f"{stem}.lora_B"]
        expected = sum(torch.outer(b[:, i], a[i]) for i in range(rank))
        torch.testing.assert_close(after[f"{stem}.lora_B"] @ after[f"{stem}.lora_A"], expected)
    assert torch.equal(after["bias"], before["bias"])


def test_only_the_rows_of_clients_that_are_named_are_cut():
    first = LAYOUT.initial_row(1)
    rows = first.repeat(3, 1)
    RankLimits(LAYOUT, {"b": 1}, ("a", "b", "c"), first).fit_(rows)
    assert torch.equal(rows[0], rows[2])
    assert not LAYOUT.views(rows[1])["q.lora_A"][1:].any()
    assert LAYOUT.views(rows[0])["q.lora_A"][1:].any()


def test_what_a_mix_of_lower_ranks_has_left_empty_begins_anew_with_the_same_product():
    first = LAYOUT.initial_row(1)
    rows = LAYOUT.initial_row(2).repeat(3, 1)
    for row in rows:
        limit_rank_(LAYOUT, row, 1)  # as if all were mixed from a client of rank 1
    before = rows.clone()
    RankLimits(LAYOUT, {"b": 1, "c": 3}, ("a", "b", "c"), first).fit_(rows)
    assert torch.equal(rows[1], before[1])
    for row, rank in ((rows[0], 4), (rows[2], 3)):
        named, was, start = LAYOUT.views(row), LAYOUT.views(before[0]), LAYOUT.views(first)
        for stem in ("q", "v"):
            a, b = f"{stem}.lora_A", f"{stem}.lora_B"
            assert torch.equal(named[a][1:rank], start[a][1:rank])
            assert not named[a][rank:].any()
            assert torch.equal(named[b] @ named[a], was[b] @ was[a])


@given(st.lists(st.integers(1, 4), min_size=2, max_size=5), st.data())
def test_each_component_is_a_mean_of_those_who_have_it(ranks, data):
    names = [f"c{place}" for place in range(len(ranks))]
    generator = np.random.default_rng(data.draw(st.integers(0, 2**31)))
    first = LAYOUT.initial_row(1)[: LAYOUT.shared].double()
    rows = torch.from_numpy(generator.normal(size=(len(ranks), LAYOUT.shared)))
    for row, rank in zip(rows, ranks, strict=True):
        limit_rank_(LAYOUT, row, rank)
    matrix = generator.random((len(ranks), len(ranks))) * (generator.random((len(ranks), len(ranks))) < 0.7)
    matrix += np.eye(len(ranks)) * 0.1
    matrix /= matrix.sum(1, keepdims=True)
    old, mixed = LAYOUT.views(rows.clone()), torch.from_numpy(matrix) @ rows
    RankLimits(LAYOUT, dict(zip(names, ranks, strict=True)), names, first).fit_(mixed, matrix)
    new = LAYOUT.views(mixed)
    for client, rank in enumerate(ranks):
        for j in range(4):
            have = [other for other, own in enumerate(ranks) if own > j]
            weights = matrix[client, have]
            for name, axis in (("q.lora_A", 1), ("q.lora_B", 2)):
                found = new[name].select(axis, j)[client]
                if j >= rank:
                    assert not found.any()
                    continue
                parts = old[name].select(axis, j)[have].numpy()
                np.testing.assert_allclose(found, weights @ parts / weights.sum(), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(new["bias"], matrix @ old["bias"].numpy())


@pytest.mark.parametrize("strategy", ["fedavg", "product"])
def test_a_round_of_low_ranks_alone_takes_no_rank_from_the_others(files, tmp_path, strategy):
    sections = {**SMALL, "federation": {"rounds": 3, "joins": {"shop-1": 2, "shop-2": 2}}}
    config = configuration(files, "generative", strategy={"kind": strategy}, **sections)
    adapter = config.backbone.adapter.model_copy(update={"rank": 4, "ranks": {"shop-0": 1}})
    backbone = config.backbone.model_copy(update={"adapter": adapter})
    config = config.model_copy(update={"backbone": backbone})
    pplr.run(config, tmp_path / "run")
    found = {name: components(adapter) for name, adapter in adapters(tmp_path / "run").items()}
    assert found == {"shop-0": {0}, "shop-1": {0, 1, 2, 3}, "shop-2": {0, 1, 2, 3}}


@pytest.mark.parametrize("strategy", ["fedavg", "pplr", "product", "ditto", "fedper"])
def test_if_all_have_a_lower_rank_it_is_a_run_of_that_rank(files, tmp_path, strategy):
    low = run(files, tmp_path / "low", {"kind": strategy}, rank=2, scale=4.0)
    cut = run(files, tmp_path / "cut", {"kind": strategy}, rank=4, scale=8.0, ranks=dict.fromkeys(SHOPS, 2))
    for name in SHOPS:
        for one, other in zip(low["rounds"], cut["rounds"], strict=True):
            np.testing.assert_allclose(
                one["clients"][name]["training_loss"], other["clients"][name]["training_loss"], rtol=1e-5
            )
    for name in SHOPS:
        one, other = adapters(tmp_path / "low")[name], adapters(tmp_path / "cut")[name]
        for key, factor in one.items():
            wide = other[key][:2] if "lora_A" in key else other[key][:, :2]
            torch.testing.assert_close(factor, wide, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["fedadam", "qfedavg", "robust", "ffa"])
def test_nobody_has_more_than_its_rank_under_any_strategy(files, tmp_path, kind):
    run(files, tmp_path / "run", {"kind": kind}, rank=4, ranks={"shop-0": 1, "shop-2": 3})
    for name, rank in (("shop-0", 1), ("shop-1", 4), ("shop-2", 3)):
        adapter = adapters(tmp_path / "run")[name]
        assert not any(factor[rank:].any() for key, factor in adapter.items() if "lora_A" in key)
        assert not any(factor[:, rank:].any() for key, factor in adapter.items() if "lora_B" in key)
        assert all(factor[:rank].any(1).all() for key, factor in adapter.items() if "lora_A" in key)


def test_rows_without_training_have_their_ranks_too(files, tmp_path):
    config = configuration(files, "generative", **{**SMALL, "federation": {"rounds": 0}})
    adapter = config.backbone.adapter.model_copy(update={"rank": 4, "ranks": {"shop-0": 2}})
    backbone = config.backbone.model_copy(update={"adapter": adapter})
    config = config.model_copy(update={"backbone": backbone})
    pplr.run(config, tmp_path / "run")
    for name, rank in (("shop-0", 2), ("shop-1", 4)):
        factors = [f for key, f in adapters(tmp_path / "run")[name].items() if "lora_A" in key]
        assert all(factor[:rank].any(1).all() and not factor[rank:].any() for factor in factors)


@pytest.mark.parametrize("strategy", ["pplr", "product"])
def test_each_client_has_the_components_of_its_own_rank(files, tmp_path, strategy):
    ranks = {"shop-0": 1, "shop-2": 3}
    run(files, tmp_path / "run", {"kind": strategy}, rank=4, ranks=ranks)
    found = {name: components(adapter) for name, adapter in adapters(tmp_path / "run").items()}
    assert found == {"shop-0": {0}, "shop-1": {0, 1, 2, 3}, "shop-2": {0, 1, 2}}
    for name in SHOPS:
        exported = load_file(tmp_path / "run" / "adapters" / name / "adapter_model.safetensors")
        assert {len(part) for key, part in exported.items() if "lora_A" in key} == {ranks.get(name, 4)}
    parts, rows = open_run(tmp_path / "run")
    for name, row in rows.items():
        folder, nothing = tmp_path / "run" / "adapters" / name, torch.ones(len(row))
        assert torch.equal(import_adapter(folder, parts.backbone.layout, nothing, parts.backbone.lora), row)


def test_one_row_for_all_has_one_rank(files):
    backbone = {"kind": "encoder", "model": str(files / "bert"), "adapter": {"rank": 2, "ranks": {"shop-1": 1}}}
    with pytest.raises(ConfigError, match=r"Leave the ranks out, or set backbone\.adapter\.rank for all"):
        configuration(files, backbone=backbone, strategy={"kind": "centralised"})


def test_the_audit_log_says_to_what_rows_were_cut(files, tmp_path):
    run(files, tmp_path / "run", {"kind": "fedavg"}, rank=4, ranks={"shop-1": 2})
    first = (tmp_path / "run" / "audit.jsonl").read_text(encoding="utf-8").splitlines()[0]
    assert json.loads(first)["ranks"] == {"shop-1": 2}


def test_a_run_with_ranks_goes_on_where_it_was_stopped(files, tmp_path):
    config = configuration(files, "generative", strategy={"kind": "product"}, **SMALL)
    adapter = config.backbone.adapter.model_copy(update={"ranks": {"shop-1": 2}})
    backbone = config.backbone.model_copy(update={"adapter": adapter})
    config = config.model_copy(update={"backbone": backbone})
    pplr.run(config, tmp_path / "straight")
    run_interrupted(config, tmp_path / "broken")
    pplr.run(config, tmp_path / "broken", resume=True)
    assert_same_result(tmp_path / "broken", tmp_path / "straight")


def test_ranks_of_nobody_and_ranks_without_adapters_are_refused(files, tmp_path):
    with pytest.raises(ConfigError, match=r"names the client 'shop_1'.*Did you mean 'shop-1'\?"):
        run(files, tmp_path / "nobody", {"kind": "fedavg"}, ranks={"shop_1": 2})
    assert not (tmp_path / "nobody").exists(), "the folder is free for the run with the right name"
    with pytest.raises(ConfigError, match="this backbone trains none"):
        run(files, tmp_path / "none", {"kind": "fedavg"}, kind="sequence", ranks={"shop-1": 2})
    assert not (tmp_path / "none").exists()
    backbone = {"kind": "encoder", "model": str(files / "bert"), "adapter": {"rank": 2, "ranks": {"shop-1": 3}}}
    with pytest.raises(
        ConfigError,
        match=r"adapter\.ranks gives client .shop-1. the rank 3, and rows are made for adapter\.rank = 2\. Raise",
    ):
        configuration(files, backbone=backbone)
    placement = {"kind": "split", "server": "127.0.0.1:1"}
    with pytest.raises(ConfigError, match=r"Leave placement\.server or the ranks out"):
        configuration(files, backbone={**backbone, "adapter": {"ranks": {"shop-1": 3}}}, placement=placement)
