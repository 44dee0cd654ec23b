"""Runs whose clients mix what they count with their models: what is measured, recommended, kept, and refused."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from rich.console import Console

import pplr
from pplr.cli.measures import print_measures
from pplr.errors import RunError
from pplr.fusion import MODEL
from pplr.report.folder import read_metrics
from pplr.report.headline import best_baseline
from pplr.runner import evaluate_run
from whole_runs import assert_same_rows, change_events, configuration, copied, other_test_items, write_files


@pytest.fixture(scope="module")
def settings_with(files: Path):
    return configuration(files, fusion={"statistics": ["transitions", "recent"]}, federation={"rounds": 2})


@pytest.fixture(scope="module")
def fused_run(settings_with, tmp_path_factory) -> pplr.RunResult:
    return pplr.run(settings_with, tmp_path_factory.mktemp("fused") / "run")


def test_a_run_tells_model_and_mix_apart(files, fused_run, tmp_path):
    plain = pplr.run(configuration(files, federation={"rounds": 2}), tmp_path / "plain")
    assert_same_rows(plain.folder, fused_run.folder)
    alone = fused_run.metrics["model_alone"]
    assert alone["overall"] == {key: plain.metrics["overall"][key] for key in alone["overall"]}
    assert fused_run.metrics["overall"] != plain.metrics["overall"]
    assert plain.metrics["clients"]["shop-0"]["fusion"] is None and not (plain.folder / "fusion.json").exists()
    written = json.loads((fused_run.folder / "fusion.json").read_text())
    for name, client in fused_run.metrics["clients"].items():
        assert client["fusion"]["weights"] == written[name]
        assert set(written[name]) == {"model", "transitions", "recent"}
    assert evaluate_run(fused_run.folder)["overall"] == pytest.approx(fused_run.metrics["overall"])
    report = (fused_run.folder / "report.html").read_text()
    assert re.search(
        r"[123] of 3 clients mix what they count on their own events with their model\. The model alone reaches", report
    )
    assert "mix what they count" not in (plain.folder / "report.html").read_text()


def test_the_model_alone_is_no_baseline(fused_run):
    """It would often be the best of them, and is the run itself."""
    measured = read_metrics(fused_run.folder)
    assert best_baseline(measured.model_copy(update={"baselines": {}}), "ndcg@10") is None
    metrics = json.loads((fused_run.folder / "metrics.json").read_text())
    alone = metrics["model_alone"]
    for group in (alone["overall"], *alone["clients"].values()):
        group["ndcg@10"] = 0.9999
    console = Console(width=60, file=io.StringIO())
    print_measures(metrics, console)
    text = console.file.getvalue()
    assert "best baseline" in text
    assert text.count("0.9999") == 1, "in the table of methods, and nowhere as the best baseline"


def test_what_is_recommended_is_what_was_measured(learned_run):
    """The per-user figures of the run, from the lists that `recommend` gives for the test's histories."""
    recommender = pplr.Recommender.load(learned_run.folder)
    weights = {name: client["fusion"]["weights"] for name, client in learned_run.metrics["clients"].items()}
    assert any(min(each[MODEL], each["transitions"]) > 0.01 for each in weights.values()), "some mix is one of both"
    table = pl.read_parquet(learned_run.folder / "per_user.parquet")
    for name in weights:
        for user, measured in table.filter(pl.col("client") == name).select("user", "recall@5").rows()[:10]:
            items = recommender._dataset.items[recommender._code(user)]
            history = [recommender._dataset.catalogue.ids[item] for item in items[:-1]]
            found = recommender.recommend(name, history=history, k=5)
            hit = recommender._dataset.catalogue.ids[items[-1]] in {item.id for item in found.items}
            assert hit == (measured == 1.0)


@pytest.fixture(scope="module")
def learned_run(tmp_path_factory) -> pplr.RunResult:
    """A data set in which the next item follows from the last one, mostly; a model that has learned some of it."""
    folder = tmp_path_factory.mktemp("learned")
    write_files(folder)
    rng = np.random.default_rng(5)
    rows = []
    for user in range(60):
        item = int(rng.integers(30))
        for place in range(10):
            rows.append({"user": f"u{user}", "item": f"i{item}", "time": 1000 + place, "silo": f"shop-{user % 3}"})
            item = (item * 7 + 3) % 30 if rng.random() < 0.6 else int(rng.integers(30))
    pl.DataFrame(rows).write_csv(folder / "events.csv")
    settings = configuration(
        folder,
        fusion={"statistics": ["transitions"]},
        federation={"rounds": 10},
        training={"epochs": 4, "batch_tokens": 300, "learning_rate": 0.01},
        evaluation={"mask_history": False},
    )
    return pplr.run(settings, folder / "run")


@pytest.mark.parametrize("kind", ["centralised", "generative", "catalogue"])
def test_other_runs_mix_too(files, tmp_path, kind):
    """Pooled training, whose owners count for themselves, and models that write titles."""
    sections = {"fusion": {"statistics": ["transitions"]}, "federation": {"rounds": 1}, "evaluation": {"max_users": 6}}
    if kind == "centralised":
        settings = configuration(files, strategy={"kind": "centralised"}, **sections)
    else:
        grounding = {"grounding": kind} if kind == "catalogue" else {}
        model = {"kind": "generative", "model": str(files / "llama"), "title_tokens": 30, "prompt_tokens": 500}
        settings = configuration(files, backbone={**model, **grounding}, **sections)
    result = pplr.run(settings, tmp_path / "run")
    written = json.loads((result.folder / "fusion.json").read_text())
    assert set(written) == {"shop-0", "shop-1", "shop-2"}
    assert set(result.metrics["model_alone"]["clients"]) == set(written)
    assert evaluate_run(result.folder)["overall"] == pytest.approx(result.metrics["overall"])
    recommender = pplr.Recommender.load(result.folder)
    short, long = (
        [item.id for item in recommender.recommend("shop-0", history=["i1", "i2"], k=k).items] for k in (3, 12)
    )
    assert len(short) == 3
    assert long[:3] == short
    assert len(set(long)) == 12


def test_weights_are_learned_on_all_validation_users_also_where_few_are_asked_after_each_round(files, tmp_path):
    sections = {"fusion": {"statistics": ["transitions"]}, "federation": {"rounds": 1}}
    users = [
        {name: client["fusion"]["validation"]["users"] for name, client in run.metrics["clients"].items()}
        for run in (
            pplr.run(configuration(files, evaluation=more, **sections), tmp_path / str(place))
            for place, more in enumerate(({}, {"validation_users": 2}))
        )
    ]
    assert users[0] == users[1]
    assert min(users[0].values()) > 2


def test_who_cannot_be_tested_mixes_too(files, tmp_path):
    """A client whose users have no test event recommends by weights as the others do."""
    own = copied(files, tmp_path / "files")
    events = pl.read_csv(own / "events.csv", schema_overrides={"item": pl.String})
    place = pl.int_range(pl.len()).over("user", order_by="time")
    last = pl.len().over("user") - 1
    test = pl.when(pl.col("silo") == "shop-1").then(last + 1).otherwise(last)
    part = pl.when(place == test).then(pl.lit("test")).when(place == test - 1).then(pl.lit("validation"))
    events.with_columns(part.otherwise(pl.lit("train")).alias("split")).write_csv(own / "events.csv")
    data = {
        "events": "events.csv",
        "items": "items.csv",
        "columns": {"silo": "silo", "split": "split"},
        "split": {"kind": "global-time"},
    }
    result = pplr.run(
        configuration(own, data=data, fusion={"statistics": ["transitions"]}, federation={"rounds": 1}),
        tmp_path / "run",
    )
    assert result.metrics["clients"]["shop-1"]["users"] == 0
    assert result.metrics["clients"]["shop-1"]["fusion"]["weights"].keys() == {MODEL, "transitions"}
    assert len(pplr.Recommender.load(result.folder).recommend("shop-1", history=["i1"], k=3).items) == 3


@pytest.fixture(scope="module")
def releases(tmp_path_factory) -> dict[str, pplr.RunResult]:
    """Runs, by the items they are trained among, on data whose items i25 to i29 are in nobody's training, but what many choose next."""
    folder = tmp_path_factory.mktemp("releases")
    write_files(folder)
    rng = np.random.default_rng(7)
    rows = []
    for user in range(90):
        items = [*rng.integers(25, size=6), *rng.choice([25, 26, 27, 28, 29], 2, replace=False)]
        for place, item in enumerate(items):
            split = {6: "validation", 7: "test"}.get(place, "train")
            rows.append(
                {"user": f"u{user}", "item": f"i{item}", "time": place, "silo": f"shop-{user % 3}", "split": split}
            )
    pl.DataFrame(rows).write_csv(folder / "events.csv")
    data = {"events": "events.csv", "items": "items.csv", "columns": {"silo": "silo", "split": "split"}}
    backbone = configuration(folder).backbone.model_dump()
    return {
        contrast: pplr.run(
            configuration(
                folder,
                data={**data, "split": {"kind": "global-time"}},
                backbone={**backbone, "contrast": contrast},
                fusion={"statistics": ["transitions"]},
                federation={"rounds": 2},
            ),
            folder / contrast,
        )
        for contrast in ("known", "catalogue")
    }


def test_what_nobody_has_chosen_is_recommended_where_validation_wants_it(releases):
    folder, metrics = releases["known"].folder, releases["known"].metrics
    weights = {name: client["fusion"]["weights"] for name, client in metrics["clients"].items()}
    assert all(each["new_items"] > 1 for each in weights.values()), weights
    assert json.loads((folder / "fusion.json").read_text()) == weights
    assert metrics["overall"]["recall@10"] > 0.9 > metrics["model_alone"]["overall"]["recall@10"]
    assert evaluate_run(folder)["overall"] == pytest.approx(metrics["overall"])
    found = pplr.Recommender.load(folder).recommend("shop-0", history=["i1", "i2"], k=5)
    assert {item.id for item in found.items} == {"i25", "i26", "i27", "i28", "i29"}


def test_a_model_that_was_trained_among_the_whole_catalogue_cannot_tell_new_items(releases):
    for client in releases["catalogue"].metrics["clients"].values():
        assert set(client["fusion"]["weights"]) == {MODEL, "transitions"}


def test_new_items_may_be_worth_less(releases, tmp_path):
    folder = copied(releases["known"].folder, tmp_path / "run")
    weights = json.loads((folder / "fusion.json").read_text())
    for each in weights.values():
        each["new_items"] = -50.0
    (folder / "fusion.json").write_text(json.dumps(weights))
    found = pplr.Recommender.load(folder).recommend("shop-0", history=["i1", "i2"], k=5)
    assert not {item.id for item in found.items} & {"i25", "i26", "i27", "i28", "i29"}


def test_a_client_that_has_left_the_data_is_named(files, tmp_path):
    own = copied(files, tmp_path / "files")
    folder = pplr.run(
        configuration(own, fusion={"statistics": ["transitions"]}, federation={"rounds": 1}), tmp_path / "run"
    ).folder
    events = pl.read_csv(own / "events.csv", schema_overrides={"item": pl.String})
    events.filter(pl.col("silo") != "shop-1").write_csv(own / "events.csv")
    recommender = pplr.Recommender.load(folder)
    assert recommender.recommend("shop-0", history=["i1"]).items
    with pytest.raises(RunError, match=r"Client shop-1 mixes its model .* no user of it any more"):
        recommender.recommend("shop-1", history=["i1"])


def test_other_test_items_change_no_weight(files, fused_run, settings_with, tmp_path):
    data = settings_with.data.model_copy(update=other_test_items(files, tmp_path / "other"))
    other = pplr.run(settings_with.model_copy(update={"data": data}), tmp_path / "run")
    before, after = (json.loads((run.folder / "fusion.json").read_text()) for run in (fused_run, other))
    assert before == after
    assert other.metrics["overall"] != fused_run.metrics["overall"]


@pytest.mark.parametrize(
    "content",
    [
        None,
        '{"shop-0": {"model": "much"}}',
        '{"shop-0": {"model": 1.0}, "shop-1": {"model": 1.0}}',
        '{"shop-0": {}, "shop-1": {"model": 1.0}, "shop-2": {"model": 1.0}}',
        '{"shop-0": {"model": 1.0, "gossip": 2.0}, "shop-1": {"model": 1.0}, "shop-2": {"model": 1.0}}',
        '{"shop-0": {"model": Infinity}, "shop-1": {"model": 1.0}, "shop-2": {"model": 1.0}}',
        '{"shop-0": {"model": 1.0, "transitions": -0.1}, "shop-1": {"model": 1.0}, "shop-2": {"model": 1.0}}',
    ],
    ids=["missing", "words", "no client", "no model", "unknown", "infinite", "negative"],
)
def test_damaged_weights_are_said(fused_run, tmp_path, content):
    folder = copied(fused_run.folder, tmp_path / "copy")
    if content is None:
        (folder / "fusion.json").unlink()
    else:
        (folder / "fusion.json").write_text(content)
    with pytest.raises(RunError, match=r"fusion.json is missing or damaged.*--resume"):
        pplr.Recommender.load(folder)


def test_groups_that_nobody_can_tell_again_are_said(files, tmp_path):
    own = copied(files, tmp_path / "files")
    settings = configuration(
        own, fusion={"statistics": ["transitions"]}, clients={"kind": "kmeans", "count": 2}, federation={"rounds": 1}
    )
    folder = pplr.run(settings, tmp_path / "run").folder
    change_events(own, 0, "i3")
    with pytest.raises(RunError, match="own statistics are counted on"):
        pplr.Recommender.load(folder)
