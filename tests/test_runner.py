"""Whole runs on tiny files with a tiny local model: what is written, what resumes, what is refused."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file

import pplr
import tiny
from pplr.config import config_toml
from pplr.data.dataset import Part
from pplr.errors import ConfigError, DataError, RunError
from pplr.evaluation import evaluate
from pplr.evaluation.baselines import FederatedMf
from pplr.results import SCHEMA
from pplr.runner import load_run
from pplr.wiring import prepare, shares
from whole_runs import assert_same_result, assert_same_rows, configuration, copied, other_test_items


def test_a_run_leaves_everything_behind(finished):
    names = {path.name for path in finished.folder.iterdir()}
    expected = {
        "config.toml",
        "events.jsonl",
        "metrics.json",
        "per_user.parquet",
        "examples.json",
        "rows.safetensors",
        "run.json",
        "audit.jsonl",
        "audit.head.json",
        ".lock",
    }
    assert expected | {"adapters", "checkpoints", "report.html"} == names
    metrics = json.loads((finished.folder / "metrics.json").read_text())
    assert metrics["schema"] == SCHEMA
    assert metrics == finished.metrics
    assert list(metrics["clients"]) == ["shop-0", "shop-1", "shop-2"]
    assert len(metrics["rounds"]) == 3
    assert {"popularity", "transitions", "item_knn", "recent"} <= set(metrics["baselines"])
    parameters = metrics["cost"]["shared_parameters"]
    assert metrics["cost"]["bytes_up"] == 3 * 3 * parameters * 4


def test_overall_is_the_mean_over_users_and_clients_add_up_to_it(finished):
    table = pl.read_parquet(finished.folder / "per_user.parquet")
    metrics = finished.metrics
    assert metrics["overall"]["ndcg@10"] == pytest.approx(table["ndcg@10"].mean())
    for client, values in metrics["clients"].items():
        assert values["ndcg@10"] == pytest.approx(table.filter(pl.col("client") == client)["ndcg@10"].mean())
    weighted = sum(v["ndcg@10"] * v["users"] for v in metrics["clients"].values())
    assert weighted / metrics["overall"]["users"] == pytest.approx(metrics["overall"]["ndcg@10"])


def test_the_figures_are_those_of_the_kept_rows_over_items_that_are_new_to_the_user(finished):
    """NDCG@10 from the rows on the disk, one user at a time, by sorting; popularity by counting."""
    config, rows = load_run(finished.folder)
    parts = prepare(config, lambda event: None)
    table = pl.read_parquet(finished.folder / "per_user.parquet")
    counts = np.bincount(parts.dataset.training().values, minlength=30).astype(float)
    queries, popular = parts.dataset.queries(Part.TEST), []
    for place, user in enumerate(queries.users):
        history, (target,) = queries.histories[place], queries.targets[place]
        row = table.filter(pl.col("user") == parts.dataset.user_ids[user])
        scorer = parts.backbone.scorer(parts.backbone.layout.views(rows[row["client"].item()]))
        scores = scorer.scores(queries.select(np.array([place])))[0].numpy()
        assert row["ndcg@10"].item() == pytest.approx(gain(scores, history, target), abs=1e-9)
        popular.append(gain(counts, history, target))
    assert len(popular) == len(table) == finished.metrics["overall"]["users"]
    assert finished.metrics["baselines"]["popularity"]["overall"]["ndcg@10"] == pytest.approx(np.mean(popular))


def test_a_reference_is_trained_with_the_clients_of_the_run_and_measured_on_its_users(files, tmp_path):
    evaluation = {"baselines": False, "references": ["federated_mf"], "ks": [10]}
    result = pplr.run(configuration(files, federation={"rounds": 0}, evaluation=evaluation), tmp_path / "run")
    assert list(result.metrics["baselines"]) == ["federated_mf"]
    parts = prepare(load_run(result.folder)[0], lambda event: None)
    model = FederatedMf.fit(parts.dataset, parts.assignment.client_of_user, parts.config.seed)
    users = evaluate(model, parts.dataset.queries(Part.TEST), 30, (10,))
    found = result.metrics["baselines"]["federated_mf"]
    assert found["overall"]["ndcg@10"] == pytest.approx(users.overall()["ndcg@10"], abs=1e-12)
    assert list(found["clients"]) == ["shop-0", "shop-1", "shop-2"]
    assert "matrix factorisation" in (result.folder / "report.html").read_text()


def gain(scores, history, target):
    """Return NDCG@10 of one target, the mean over all orders of the items that tie with it."""
    rivals = [score for item, score in enumerate(scores) if item not in {*history.tolist(), target}]
    if target in history:
        return 0.0
    above, tied = (sum(score > scores[target] for score in rivals), sum(score == scores[target] for score in rivals))
    places = range(above + 1, above + tied + 2)
    return float(np.mean([1 / np.log2(1 + place) if place <= 10 else 0.0 for place in places]))


def test_evaluating_again_gives_the_same_figures(finished):
    again = pplr.evaluate_run(finished.folder)
    for key in ("overall", "clients", "balance", "baselines"):
        assert again[key] == finished.metrics[key]


def test_the_same_configuration_gives_the_same_bits(finished, files, tmp_path):
    again = pplr.run(configuration(files), tmp_path / "again")
    assert_same_result(again.folder, finished.folder)


@pytest.mark.parametrize("strategy", ["fedavg", "local", "centralised"])
def test_every_strategy_runs_and_reports_every_client(files, tmp_path, strategy):
    result = pplr.run(configuration(files, strategy={"kind": strategy}, federation={"rounds": 2}), tmp_path / "run")
    assert list(result.metrics["clients"]) == ["shop-0", "shop-1", "shop-2"]
    rows = load_file(result.folder / "rows.safetensors")
    if strategy != "fedavg":  # there a client may have kept the average of another round
        assert torch.equal(rows["shop-0"], rows["shop-1"]) == (strategy == "centralised")
    assert (result.metrics["cost"]["bytes_up"] == 0) == (strategy != "fedavg")


@pytest.mark.parametrize("backbone", ["encoder", "generative"])
def test_every_backbone_trains_and_recommends(files, tmp_path, backbone):
    config = configuration(
        files, backbone, federation={"rounds": 2}, evaluation={"max_users": 4, "examples": 1},
        training={"epochs": 1, "learning_rate": 0.01, "batch_tokens": 4000, "max_examples": 60},
    )  # fmt: skip
    result = pplr.run(config, tmp_path / "run")
    first, last = result.metrics["rounds"][0]["clients"], result.metrics["rounds"][-1]["clients"]
    assert sum(c["training_loss"] for c in last.values()) < sum(c["training_loss"] for c in first.values())
    assert (result.folder / "adapters" / "shop-1" / "adapter_config.json").is_file()
    titles = tiny.catalogue().titles
    given = pplr.Recommender.load(result.folder).recommend("shop-1", history=[titles[0], titles[7]], k=5)
    assert len({item.id for item in given.items}) == 5
    assert not {item.id for item in given.items} & {item.id for item in given.history}


def test_more_participants_than_clients_are_refused(files, tmp_path):
    with pytest.raises(ConfigError, match=r"federation\.participation = 4, but there are 3 clients"):
        pplr.run(configuration(files, federation={"participation": 4}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("backbone", "clients"),
    [
        ("sequence", {"kind": "kmeans", "count": 3, "factors": 4}),
        ("encoder", {"kind": "column"}),
        ("generative", {"kind": "column"}),
    ],
)
def test_test_events_change_nothing_that_was_trained(files, tmp_path, backbone, clients):
    """Every test item is replaced by another one: rows, and all of validation, stay the same bit for bit."""
    config = configuration(
        files, backbone, clients=clients, federation={"rounds": 2}, evaluation={"max_users": 6, "examples": 0},
        training={"epochs": 1, "batch_tokens": 4000, "max_examples": 60},
    )  # fmt: skip
    before = pplr.run(config, tmp_path / "before")
    paths = other_test_items(files, tmp_path / "data")
    after = pplr.run(config.model_copy(update={"data": config.data.model_copy(update=paths)}), tmp_path / "after")
    assert_same_rows(after.folder, before.folder)
    assert [known_before_the_test(r) for r in after.metrics["rounds"]] == [
        known_before_the_test(r) for r in before.metrics["rounds"]
    ]
    assert after.metrics["overall"]["loss"] != before.metrics["overall"]["loss"], "nothing was changed"


def known_before_the_test(record):
    """Return a round's record without times."""
    clients = {name: {k: v for k, v in client.items() if k != "seconds"} for name, client in record["clients"].items()}
    return {key: value for key, value in record.items() if key != "seconds"} | {"clients": clients}


def test_a_killed_run_resumes_to_the_same_bits(files, tmp_path, finished):
    """SIGKILL at a random moment, again and again, until the run is through."""
    config = tmp_path / "config.toml"
    config.write_text(config_toml(configuration(files)))
    command = [sys.executable, "-m", "pplr", "run", str(config), "--out", str(tmp_path / "run"), "--quiet"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    kills, moments = 0, random.Random(1)
    while kills < 3:
        started = (tmp_path / "run" / "config.toml").exists()
        process = subprocess.Popen([*command, "--resume"] if started else command, env=environment)
        wait_for_training(tmp_path / "run" / "events.jsonl", process)
        time.sleep(moments.uniform(0.0, 0.25))
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
    done = subprocess.run([*command, "--resume"], env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert kills > 0, "the run was through before it could be killed"
    assert_same_result(tmp_path / "run", finished.folder)


def test_rows_are_chosen_by_ndcg_at_10_whatever_is_reported(files, tmp_path):
    result = pplr.run(configuration(files, federation={"rounds": 1}, evaluation={"ks": [3]}), tmp_path / "run")
    client = result.metrics["rounds"][0]["clients"]["shop-0"]
    assert client["improved"]
    assert {"ndcg@3", "ndcg@10"} <= client["validation"].keys()
    assert "ndcg@10" not in result.metrics["overall"]


def test_data_that_nobody_can_be_measured_on_are_refused(files, tmp_path):
    mine = copied(files, tmp_path / "mine")
    events = pl.read_csv(mine / "events.csv").with_columns(split=pl.lit("train"))
    events.write_csv(mine / "events.csv")
    data = {"events": "events.csv", "items": "items.csv", "columns": {"silo": "silo", "split": "split"}}
    with pytest.raises(DataError):
        pplr.run(configuration(mine, data=data | {"split": {"kind": "global-time"}}), tmp_path / "run")


def test_recommender(finished):
    recommender = pplr.Recommender.load(finished.folder)
    assert recommender.clients == ("shop-0", "shop-1", "shop-2")
    by_user = recommender.recommend("shop-1", user="u1", k=4)
    assert [item.rank for item in by_user.items] == [1, 2, 3, 4]
    assert all(a.score >= b.score for a, b in zip(by_user.items, by_user.items[1:], strict=False))
    ids = [item.id for item in by_user.history]
    everything = recommender.recommend("shop-1", user="u1", k=30).items
    assert {item.id for item in everything} == set(recommender._dataset.catalogue.ids) - set(ids)
    assert recommender.recommend("shop-1", history=ids, k=4).items == by_user.items
    for wrong in (
        {"client": "shop-9", "user": "u1"},
        {"client": "shop-0", "user": "u1"},
        {"client": "shop-1", "user": "nobody"},
        {"client": "shop-1", "history": ["no such title"]},
        {"client": "shop-1", "history": [" "]},
        {"client": "shop-1"},
        {"client": "shop-1", "user": "u1", "k": 0},
    ):
        with pytest.raises(ConfigError):
            recommender.recommend(**wrong)
    with pytest.raises(RunError):
        pplr.Recommender.load(finished.folder / "checkpoints")


def test_private_parameters_stay_where_they_are(files, tmp_path):
    own = {"kind": "sequence", "model": str(files / "bert"), "width": 16, "residual": "private", "bias": "private"}
    result = pplr.run(
        configuration(files, backbone=own, strategy={"kind": "fedavg"}, federation={"rounds": 2}), tmp_path / "run"
    )
    cost = result.metrics["cost"]
    assert cost["parameters"] - cost["shared_parameters"] == 30 * 16 + 30
    rows = load_file(result.folder / "rows.safetensors")
    own_part = slice(cost["shared_parameters"], None)
    assert not torch.equal(rows["shop-0"][own_part], rows["shop-1"][own_part])


def test_shares_add_up():
    generator = np.random.default_rng(1)
    for _ in range(100):
        sizes = generator.integers(1, 200, size=generator.integers(1, 12)).tolist()
        total = int(generator.integers(len(sizes), sum(sizes) + 50))
        given = shares(total, sizes)
        assert all(1 <= share <= size for share, size in zip(given, sizes, strict=True))
        assert sum(given) == min(total, sum(sizes))


def test_shares_of_too_little_and_of_nothing():
    assert shares(2, [5, 5, 5]) == [1, 1, 1]
    assert shares(10, [0, 4, 40]) == [0, 1, 9]


def wait_for_training(events: Path, process: subprocess.Popen) -> None:
    before = events.read_text().count("round_started") if events.exists() else 0
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        if events.exists() and events.read_text().count("round_started") > before:
            return
        time.sleep(0.01)
