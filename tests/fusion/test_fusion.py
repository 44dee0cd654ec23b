"""What a client counts on its own data: of its own events alone, trusted as far as validation says."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from pydantic import ValidationError
from rich.console import Console

import pplr
from pplr.cli.measures import print_measures
from pplr.data.dataset import Catalogue, Dataset, Part, Queries, Ragged
from pplr.errors import NumericalError, RunError
from pplr.evaluation import evaluate, fit_baselines, top_items
from pplr.fusion import MODEL, FusedScorer, Fusion, FusionSettings
from pplr.models.backbone import CatalogueScorer
from pplr.report.folder import read_metrics
from pplr.report.headline import best_baseline
from pplr.runner import evaluate_run
from whole_runs import assert_same_rows, change_events, configuration, copied, other_test_items, write_files

ITEMS = 20
EVERY = FusionSettings(statistics=("popularity", "recent", "transitions", "item_knn", "item_knn_recency"))


def cycles(users: int = 80, length: int = 9) -> Dataset:
    """Every user walks through the items in their order, from a place of their own: transitions know all of it."""
    rows = Ragged.from_rows([(np.arange(length) + 3 * user) % ITEMS for user in range(users)])
    parts = np.tile(np.r_[np.full(length - 2, Part.TRAIN), Part.VALIDATION, Part.TEST], users).astype(np.int8)
    names = tuple(f"i{item}" for item in range(ITEMS))
    times = np.tile(np.arange(length) * 10, users)
    return Dataset(Catalogue(names, names), tuple(f"u{user}" for user in range(users)), rows, parts, times)


class Model(CatalogueScorer):
    """Scores by a function of a query's last item."""

    def __init__(self, rows: torch.Tensor, nothing: float = -np.inf) -> None:
        self.rows, self.nothing = rows, nothing

    def scores(self, queries: Queries, wanted: int = 0) -> torch.Tensor:
        return self.rows[torch.tensor([int(history[-1]) for history in queries.histories], dtype=torch.long)]


def noise(seed: int = 0) -> Model:
    return Model(torch.randn(ITEMS, ITEMS, generator=torch.Generator().manual_seed(seed)))


def knowing() -> Model:
    """A model that knows what comes next, as sure as counting can be."""
    return Model(30 * torch.eye(ITEMS).roll(1, dims=1))


def users_of(dataset: Dataset) -> np.ndarray:
    return np.arange(len(dataset.items))


def test_scores_are_the_written_formula():
    dataset = cycles()
    statistics = fit_baselines(dataset, names=["transitions", "popularity"])
    weights = {MODEL: 0.7, "transitions": 1.3, "popularity": 0.0}
    queries = dataset.queries(Part.TEST).select(np.arange(5))
    found = FusedScorer(noise(), statistics, weights).scores(queries)
    counted = statistics["transitions"].scores(queries).numpy()
    model = noise().scores(queries).double().numpy()
    for row in range(5):
        log_p = model[row] - np.log(np.exp(model[row]).sum())
        expected = 0.7 * log_p + 1.3 * np.log(1 + ITEMS * counted[row] / counted[row].sum())
        assert found[row].numpy() == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_a_statistic_that_has_seen_nothing_says_nothing():
    nobody = cycles().of(np.array([], dtype=np.int64))
    queries = cycles().queries(Part.TEST)
    statistics = fit_baselines(nobody, names=["transitions"])
    found = FusedScorer(noise(), statistics, {MODEL: 1.0, "transitions": 5.0}).scores(queries)
    assert torch.equal(found, torch.log_softmax(noise().scores(queries), dim=1))


def test_what_neither_model_nor_statistics_know_is_not_recommended():
    dataset = cycles()
    beams = torch.zeros(ITEMS, ITEMS)
    beams[:, 7] = 2.0  # a search that found one item, whatever the history
    queries = dataset.queries(Part.TEST).select(np.arange(4))
    model = Model(beams, nothing=0.0)
    fused = FusedScorer(model, fit_baselines(dataset, names=["transitions"]), {MODEL: 1.0, "transitions": 1.0})
    best = top_items(fused.scores(queries), None, ITEMS, fused.nothing)
    for row, history in enumerate(queries.histories):
        known = {7, *((int(i) + step) % ITEMS for i in history for step in (1, 2, 3))}
        shown = set(best[row].tolist()) - {-1}
        assert {7} < shown <= known


class Searching(CatalogueScorer):
    """A search that finds two items after the last one, or as many as are wanted; the first found score highest."""

    nothing = 0.0

    def scores(self, queries: Queries, wanted: int = 0) -> torch.Tensor:
        width = max(2, wanted)
        found = torch.zeros(len(queries), ITEMS)
        for row, history in enumerate(queries.histories):
            for place in range(min(width, ITEMS)):
                found[row, (int(history[-1]) + 5 + place) % ITEMS] = width - place
        return found


def test_the_mix_does_not_depend_on_how_many_are_wanted():
    dataset = cycles()
    queries = dataset.queries(Part.TEST).select(np.arange(4))
    fused = FusedScorer(Searching(), fit_baselines(dataset, names=["transitions"]), {MODEL: 1.0, "transitions": 0.3})
    lists = {k: top_items(fused.scores(queries, wanted=k), queries.histories, k, fused.nothing) for k in (1, 3, 10)}
    measured = top_items(fused.scores(queries), queries.histories, 3, fused.nothing)
    for k in (1, 3):
        assert torch.equal(lists[10][:, :k], lists[k])
        assert torch.equal(measured[:, :k], lists[k])
    assert (lists[10] >= 0).all(), "a wider search fills the end"


def test_counting_is_trusted_where_the_model_knows_nothing_and_left_out_where_it_knows_all():
    dataset = cycles()
    fusion = Fusion(FusionSettings(statistics=("transitions", "popularity")), dataset, users_of(dataset))
    validation, test = dataset.queries(Part.VALIDATION), dataset.queries(Part.TEST)
    learned = fusion.learn(noise(), validation)
    weights = learned.weights
    assert weights["transitions"] > 5 * weights[MODEL]
    assert learned.alone == pytest.approx(evaluate(noise(), validation, ITEMS, (10,)).overall()["ndcg@10"])
    assert learned.mixed > 0.9
    alone, fused = (
        evaluate(scorer, test, ITEMS, (10,)).overall()["ndcg@10"]
        for scorer in (noise(), fusion.fused(noise(), weights))
    )
    assert fused > 0.9 > 0.6 > alone
    assert fusion.learn(knowing(), validation).weights == {MODEL: 1.0, "transitions": 0.0, "popularity": 0.0}


def test_a_statistic_that_misleads_is_given_no_weight():
    dataset = cycles()
    spoilt = replace(
        dataset, parts=dataset.parts.copy(), items=Ragged(dataset.items.values.copy(), dataset.items.offsets)
    )
    training = spoilt.parts == Part.TRAIN
    spoilt.items.values[training] = np.random.default_rng(3).integers(0, ITEMS, int(training.sum()))
    fusion = Fusion(FusionSettings(statistics=("transitions",)), spoilt, users_of(spoilt))
    model = Model(3 * torch.eye(ITEMS).roll(1, dims=1))
    weights = fusion.learn(model, dataset.queries(Part.VALIDATION)).weights
    assert weights["transitions"] < 0.05 * weights[MODEL]


def test_nothing_of_others_and_nothing_held_out_is_counted():
    dataset, mine = cycles(), np.arange(0, 80, 2)
    others = np.repeat(np.arange(80) % 2 == 1, 9)
    test = dataset.parts == Part.TEST
    changed = dataset.items.values.copy()
    changed[others | test] = (changed[others | test] + 7) % ITEMS
    queries = dataset.queries(Part.VALIDATION)
    queries = queries.select(np.flatnonzero(np.isin(queries.users, mine)))
    one = Fusion(EVERY, dataset, mine)
    other = Fusion(EVERY, replace(dataset, items=Ragged(changed, dataset.items.offsets)), mine)
    weights = one.learn(noise(), queries).weights
    assert set(weights) == {MODEL, *EVERY.statistics}
    assert weights == other.learn(noise(), queries).weights
    assert torch.equal(one.fused(noise(), weights).scores(queries), other.fused(noise(), weights).scores(queries))


def test_a_query_without_a_time_is_asked_after_the_last_event():
    dataset = cycles()
    fusion = Fusion(FusionSettings(statistics=("recent",)), dataset, users_of(dataset))
    fused = fusion.fused(noise(), {MODEL: 0.0, "recent": 1.0})
    queries = dataset.queries(Part.TEST)
    later = replace(queries, times=np.full(len(queries), 10**9))
    assert torch.equal(fused.scores(replace(queries, times=None)), fused.scores(later))
    assert fused.scores(queries).std() > 0


def test_a_client_without_validation_users_keeps_its_model_alone():
    dataset = cycles()
    fusion = Fusion(EVERY, dataset, users_of(dataset))
    for count in (0, 1):
        weights = fusion.learn(noise(), dataset.queries(Part.VALIDATION).select(np.arange(count))).weights
        assert weights == {MODEL: 1.0, **dict.fromkeys(EVERY.statistics, 0.0)}


def test_recent_popularity_without_times_is_left_out_and_said(files, tmp_path):
    own = copied(files, tmp_path / "files")
    events = pl.read_csv(own / "events.csv").drop("time").with_columns(position=pl.int_range(pl.len()).over("user"))
    events.write_csv(own / "events.csv")
    settings = configuration(own, fusion={"statistics": ["recent", "popularity"]}, federation={"rounds": 1})
    metrics = pplr.run(settings, tmp_path / "run").metrics
    assert any("'recent' of fusion.statistics is left out" in note for note in metrics["data"]["notes"])
    assert set(metrics["clients"]["shop-0"]["fusion"]["weights"]) == {MODEL, "popularity"}


def test_a_statistic_twice_is_refused():
    with pytest.raises(ValidationError, match="name each once"):
        FusionSettings(statistics=("transitions", "transitions"))


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
    ],
    ids=["missing", "words", "no client", "no model", "unknown", "infinite"],
)
def test_damaged_weights_are_said(fused_run, tmp_path, content):
    folder = copied(fused_run.folder, tmp_path / "copy")
    if content is None:
        (folder / "fusion.json").unlink()
    else:
        (folder / "fusion.json").write_text(content)
    with pytest.raises(RunError, match=r"fusion.json is missing or damaged.*--resume"):
        pplr.Recommender.load(folder)


def test_a_score_that_is_no_number_is_the_models(files):
    dataset = cycles()
    fusion = Fusion(FusionSettings(statistics=("transitions",)), dataset, users_of(dataset))
    with pytest.raises(NumericalError, match="Model returned"):
        fusion.learn(Model(torch.full((ITEMS, ITEMS), torch.nan)), dataset.queries(Part.VALIDATION))


def test_groups_that_nobody_can_tell_again_are_said(files, tmp_path):
    own = copied(files, tmp_path / "files")
    settings = configuration(
        own, fusion={"statistics": ["transitions"]}, clients={"kind": "kmeans", "count": 2}, federation={"rounds": 1}
    )
    folder = pplr.run(settings, tmp_path / "run").folder
    change_events(own, 0, "i3")
    with pytest.raises(RunError, match="own statistics are counted on"):
        pplr.Recommender.load(folder)
