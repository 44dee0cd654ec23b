"""A silo as its messages see it: it goes back with its coordinator, and says what is wrong instead of failing."""

from __future__ import annotations

import gc
import json
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

import pplr
from pplr.config import load_config
from pplr.data.dataset import Part
from pplr.errors import ConfigError, RunError, StorageError
from pplr.evaluation import top_items
from pplr.federation.events import ignore
from pplr.federation.messages import EvaluateTask, Report, TrainTask
from pplr.report.folder import read_metrics, read_per_user
from pplr.run_status import run_status
from pplr.runner import evaluate_run
from pplr.silos import codec
from pplr.silos.announcement import Announcement, row_digest
from pplr.silos.parcel import Parcel
from pplr.silos.resident import ask
from pplr.silos.work import SiloWork
from pplr.wiring import prepare
from whole_runs import change_events, configuration, copied

ASKED = codec.Asked("this run", 10**9)


def work(files: Path, folder: Path, name: str = "shop-1", **sections) -> SiloWork:
    own = {"kind": "sequence", "model": str(files / "bert"), "width": 16, "positions": 8, "bias": "private"}
    config = configuration(files, backbone=own, **sections)
    return SiloWork(prepare(config, ignore, silo=name), name, folder)


def trained(silo: SiloWork, number: int, row: torch.Tensor):
    task = TrainTask(silo.announcement.name, number, 0.0, row)
    return codec.update_of(silo.answer(codec.train_parcel(task, ASKED)))


def validated(silo: SiloWork, number: int, row: torch.Tensor, *, counted: bool = True):
    task = EvaluateTask(silo.announcement.name, number, Part.VALIDATION, row, True, counted)
    return codec.report_of(silo.answer(codec.evaluate_parcel(task, ASKED)))


def first(silo: SiloWork) -> torch.Tensor:
    layout, row = codec.first_row(silo.answer(Parcel("initial", {})))
    assert row_digest(row.numpy().tobytes()) == silo.announcement.initial
    assert (layout.digest, layout.size) == (silo.announcement.layout, silo.announcement.parameters)
    whole = silo._parts.backbone.layout.specs
    assert [(one.name, one.decay, one.table) for one in layout.specs] == [(o.name, o.decay, o.table) for o in whole]
    return row


@pytest.mark.parametrize("moments", ["fresh", "kept"])
def test_a_repeated_round_repeats_itself_also_in_another_process(files, tmp_path, moments):
    training = {"epochs": 1, "batch_tokens": 40, "moments": moments}
    silo = work(files, tmp_path / "state", training=training)
    row = first(silo)
    for number in (1, 2):
        row = trained(silo, number, row).row
        validated(silo, number, row)
    once = trained(silo, 3, row)
    measured = validated(silo, 3, once.row)
    for again in (silo, work(files, tmp_path / "state", training=training)):
        assert torch.equal(trained(again, 3, row).row, once.row)
        assert bool(again._client.moments) == (moments == "kept")
        assert validated(again, 3, once.row).metrics == measured.metrics
        assert validated(again, 3, once.row).improved == measured.improved, "asked twice, it answers twice the same"


def test_an_update_that_did_not_count_leaves_no_trace(files, tmp_path):
    counted, not_counted, absent = (work(files, tmp_path / str(i)) for i in range(3))
    row = first(counted)
    for silo in (counted, not_counted):
        trained(silo, 1, row)
    losses = [validated(silo, 1, row, counted=silo is counted).loss for silo in (counted, not_counted, absent)]
    assert losses[1] == losses[2] != losses[0], "private parameters were trained"


def test_a_silo_that_is_no_longer_needed_goes_with_its_state_at_once(files, tmp_path):
    silo = work(files, tmp_path / "state")
    validated(silo, 1, trained(silo, 1, first(silo)).row)
    validated(silo, 2, trained(silo, 2, first(silo)).row)
    mapped = Path("/proc/self/maps").read_text(encoding="utf-8")
    assert str(tmp_path) not in mapped, (
        "states are files that are deleted: mapped, they would keep their place on the disk"
    )
    known = weakref.ref(silo)
    gc.disable()
    try:
        del silo
        assert known() is None, "a worker for hundreds of silos cannot wait for the garbage collector"
    finally:
        gc.enable()


def finished(silo: SiloWork) -> Report:
    """Two rounds, and the test, of which this is the report."""
    row = first(silo)
    for number in (1, 2):
        row = trained(silo, number, row).row
        validated(silo, number, row)
    task = EvaluateTask(silo.announcement.name, 2, Part.TEST, None, rank=True)
    return codec.report_of(silo.answer(codec.evaluate_parcel(task, ASKED)))


def test_a_silo_recommends_from_what_it_keeps_of_a_run(files, tmp_path):
    """Its own files, without a silo column: all users in them are its own."""
    own = copied(files, tmp_path / "files")
    events = pl.read_csv(own / "events.csv", schema_overrides={"item": pl.String})
    events.filter(pl.col("silo") == "shop-1").drop("silo").write_csv(own / "events.csv")
    data = {"events": "events.csv", "items": "items.csv"}
    silo = work(own, tmp_path / "state", data=data, fusion={"statistics": ["transitions"]})
    finished(silo)
    result = tmp_path / "state" / "result"
    recommender = pplr.Recommender.load(result)
    user = pl.read_parquet(result / "per_user.parquet")["user"][0]
    assert recommender.owner(user) == "shop-1"
    client = silo._client
    queries = client.queries(Part.TEST)
    weights = json.loads((result / "fusion.json").read_text())["shop-1"]
    with client.with_best() as (_, row):
        scores = client.scorer(row, weights).scores(queries)
    best = top_items(scores, queries.histories, 5)
    ids = silo._parts.dataset.catalogue.ids
    for place in range(3):
        history = [ids[item] for item in queries.histories[place]]
        found = recommender.recommend("shop-1", history=history, k=5)
        assert [item.id for item in found.items] == [ids[item] for item in best[place].tolist()]
    metrics = read_metrics(result)
    assert metrics.model_alone is not None
    assert list(metrics.clients) == ["shop-1"]
    assert evaluate_run(result)["overall"] == pytest.approx(metrics.overall.model_dump(by_alias=True))

    again = work(own, tmp_path / "state", data=data)
    finished(again)
    assert not (result / "fusion.json").exists(), "of the run before"
    assert read_metrics(result).model_alone is None
    change_events(own, 0, "i3")
    with pytest.raises(RunError, match="training events"):
        evaluate_run(result)
    (result / "metrics.json").unlink()
    with pytest.raises(RunError, match=r"not finished.* where its coordinator is"):
        pplr.Recommender.load(result)
    with pytest.raises(RunError, match=r"not finished.* where its coordinator is"):
        read_metrics(result)


def test_in_files_that_silos_share_each_keeps_to_its_own_events(files, tmp_path):
    finished(work(files, tmp_path / "shared"))
    own = copied(files, tmp_path / "files")
    events = pl.read_csv(own / "events.csv", schema_overrides={"item": pl.String})
    events.filter(pl.col("silo") == "shop-1").drop("silo").write_csv(own / "events.csv")
    finished(work(own, tmp_path / "alone", data={"events": "events.csv", "items": "items.csv"}))
    shared, alone = (evaluate_run(tmp_path / where / "result") for where in ("shared", "alone"))
    assert shared["baselines"] == alone["baselines"]
    assert [shared["data"][what] for what in ("users", "events")] == [
        alone["data"][what] for what in ("users", "events")
    ]
    assert read_metrics(tmp_path / "shared" / "result").data.users == alone["data"]["users"]

    recommender = pplr.Recommender.load(tmp_path / "shared" / "result")
    stranger = next(user for user in recommender._dataset.user_ids if recommender.owner(user) == "shop-0")
    with pytest.raises(ConfigError, match=r"belongs to shop-0, and this is what shop-1 has of the run\. Ask shop-0"):
        recommender.recommend("shop-1", user=stranger)


def test_a_silos_result_is_nobodys_run_folder(files, tmp_path):
    silo = work(files, tmp_path / "state")
    finished(silo)
    result = tmp_path / "state" / "result"
    before = (result / "rows.safetensors").read_bytes()
    for how in ({"resume": True}, {"overwrite": True}, {}):
        with pytest.raises(RunError, match="holds what the silo shop-1 keeps of a run"):
            pplr.run(load_config(result / "config.toml"), result, **how)
    with pytest.raises(RunError, match="has of a finished run"):
        run_status(result)
    assert (result / "rows.safetensors").read_bytes() == before


def test_a_result_is_there_until_the_next_one_is_whole(files, tmp_path, monkeypatch):
    silo = work(files, tmp_path / "state")
    finished(silo)
    result = tmp_path / "state" / "result"
    before = {path.name: path.read_bytes() for path in result.iterdir() if path.is_file()}

    def full(*_: object) -> None:
        raise StorageError("the disk is full")

    monkeypatch.setattr("pplr.silos.work.save_fusion", full)
    again = work(files, tmp_path / "state", seed=2)
    with pytest.raises(RunError, match="the disk is full"):
        finished(again)
    assert {path.name: path.read_bytes() for path in result.iterdir() if path.is_file()} == before


def test_without_test_users_there_is_no_loss(files, tmp_path):
    own = copied(files, tmp_path / "files")
    events = pl.read_csv(own / "events.csv", schema_overrides={"item": pl.String})
    place, last = pl.int_range(pl.len()).over("user", order_by="time"), pl.len().over("user") - 1
    test = pl.when(pl.col("silo") == "shop-1").then(last + 1).otherwise(last)
    part = pl.when(place == test).then(pl.lit("test")).when(place == test - 1).then(pl.lit("validation"))
    events.with_columns(part.otherwise(pl.lit("train")).alias("split")).write_csv(own / "events.csv")
    columns = {"silo": "silo", "split": "split"}
    data = {"events": "events.csv", "items": "items.csv", "columns": columns, "split": {"kind": "global-time"}}
    assert not finished(work(own, tmp_path / "state", data=data)).users
    result = tmp_path / "state" / "result"
    overall = read_metrics(result).overall
    assert (overall.users, overall.loss) == (0, None)
    assert evaluate_run(result)["overall"]["loss"] is None
    assert pplr.Recommender.load(result).recommend("shop-1", history=["i1"], k=3).items
    with pytest.raises(RunError, match="no test user"):
        read_per_user(result)


def test_what_is_wrong_is_said(files, tmp_path):
    silo = work(files, tmp_path / "state")
    for parcel in (Parcel("nonsense", {}), Parcel("train", {}), Parcel("evaluate", {"round": "x"})):
        assert silo.answer(parcel).kind == "failure"
    with pytest.raises(RunError, match="does not answer"):
        ask(str(tmp_path / "nowhere"), Parcel("announce", {}))
    with pytest.raises(ConfigError, match=r"no silo 'shop-11'.*Did you mean 'shop-1'"):
        work(files, tmp_path / "state", "shop-11")


def test_a_silo_with_its_own_files_is_the_silo_of_a_column(files, tmp_path):
    """Of a table with a column it takes its own rows; without a column all are its own."""
    import polars as pl

    mine = copied(files, tmp_path / "mine")
    events = pl.read_csv(mine / "events.csv").filter(pl.col("silo") == "shop-1").drop("silo")
    events.write_csv(mine / "events.csv")
    own = {"events": "events.csv", "items": "items.csv"}
    found = work(mine, tmp_path / "a", data=own).announcement
    expected = work(files, tmp_path / "b").announcement
    for what in ("users", "events", "examples", "catalogue", "layout", "initial"):
        assert getattr(found, what) == getattr(expected, what), what
    change_events(mine, 0, "i7")
    assert work(mine, tmp_path / "c", data=own).announcement.catalogue == expected.catalogue


def test_an_announcement_travels(files, tmp_path):
    silo = work(files, tmp_path / "state")
    assert codec.parsed(silo.answer(Parcel("announce", {})), "announcement", Announcement) == silo.announcement
    assert silo.announcement.users == 20
    assert np.isfinite(silo.announcement.examples)


def test_a_finished_run_leaves_the_silo_its_own_result(files, tmp_path):
    import polars as pl
    from safetensors.torch import load_file

    silo = work(files, tmp_path / "state")
    row = trained(silo, 1, first(silo)).row
    validated(silo, 1, row)
    test = EvaluateTask("shop-1", 1, Part.TEST, None, True)
    report = codec.report_of(silo.answer(codec.evaluate_parcel(test, ASKED)))
    table = pl.read_parquet(tmp_path / "state" / "result" / "per_user.parquet")
    assert table["client"].unique().to_list() == ["shop-1"]
    assert table["ndcg@10"].mean() == pytest.approx(report.metrics["ndcg@10"])
    kept = load_file(tmp_path / "state" / "result" / "rows.safetensors")
    assert torch.equal(kept["shop-1"][: len(row)], row)
    assert (tmp_path / "state" / "result" / "adapters" / "shop-1").is_dir()


def reason(silo: SiloWork, parcel: Parcel) -> str:
    answer = silo.answer(parcel)
    assert answer.kind == "failure"
    return str(answer.fields["reason"])


def test_what_is_left_of_another_run_is_worth_nothing(files, tmp_path):
    """Also where the first task is a measurement: a silo that joins when all rounds are done."""
    finished(work(files, tmp_path / "state"))
    here, fresh = work(files, tmp_path / "state"), work(files, tmp_path / "fresh")
    test = EvaluateTask("shop-1", 2, Part.TEST, None, rank=True)
    result = (tmp_path / "state" / "result" / "rows.safetensors").read_bytes()
    assert "not validated a row of this run" in reason(here, codec.evaluate_parcel(test, codec.Asked("new", 10**9)))
    assert (tmp_path / "state" / "result" / "rows.safetensors").read_bytes() == result
    row = first(fresh)
    validation = EvaluateTask("shop-1", 1, Part.VALIDATION, row, rank=True, trained=False)
    one, other = (
        codec.report_of(silo.answer(codec.evaluate_parcel(validation, codec.Asked("new", 10**9))))
        for silo in (here, fresh)
    )
    assert (one.loss, one.metrics, one.improved) == (other.loss, other.metrics, True)


def test_a_best_row_of_this_run_outlives_the_first_training_in_it(files, tmp_path):
    """A silo that is validated from round 1 on, and drawn in round 2 only."""
    silo = work(files, tmp_path / "state")
    row = first(silo)
    validated(silo, 1, row)
    best = silo._client.best_score
    trained(silo, 2, row)
    assert silo._client.best_score == best > -1e9


def test_tasks_that_are_not_for_this_silo_or_this_model_are_refused_and_the_silo_lives_on(files, tmp_path, monkeypatch):
    silo = work(files, tmp_path / "state")
    row = first(silo)
    task = TrainTask("shop-1", 1, 0.0, row)
    for wrong, words in (
        (replace(task, client="shop-2"), "it is asked as shop-2"),
        (replace(task, row=row[:-1]), "parameters are shared"),
        (replace(task, row=torch.cat([row, row[:1]])), "parameters are shared"),
        (replace(task, row=row * float("inf")), "not finite"),
    ):
        assert words in reason(silo, codec.train_parcel(wrong, ASKED))
    wild = Parcel("train", {**codec.train_parcel(task, ASKED).fields, "progress": 1e308}, codec.numbers(row))
    assert "progress" in reason(silo, wild)
    without = EvaluateTask("shop-1", 1, Part.VALIDATION, None, rank=True)
    assert "has no row" in reason(silo, codec.evaluate_parcel(without, ASKED))

    def broken(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(silo._client, "train", broken)
        assert "The silo has failed at it: MemoryError" in reason(silo, codec.train_parcel(task, ASKED))
    assert trained(silo, 1, row).targets


def test_each_task_says_how_many_examples_are_used_whatever_was_used_before(files, tmp_path):
    silo, fresh = work(files, tmp_path / "state"), work(files, tmp_path / "fresh")
    row = first(silo)
    task = TrainTask("shop-1", 1, 0.0, row)
    few = codec.update_of(silo.answer(codec.train_parcel(task, codec.Asked("r", 5))))
    more = codec.update_of(silo.answer(codec.train_parcel(task, codec.Asked("r", 9))))
    alone = codec.update_of(fresh.answer(codec.train_parcel(task, codec.Asked("r", 9))))
    assert few.targets < more.targets == alone.targets
    assert torch.equal(more.row, alone.row)


def test_a_silo_of_a_simulation_counts_its_own_events_only(files, tmp_path):
    own = {"kind": "sequence", "model": str(files / "bert"), "width": 16, "positions": 8, "bias": "private"}
    everybody = prepare(configuration(files, backbone=own), ignore)
    finished(SiloWork(everybody, "shop-1", tmp_path / "simulated"))
    finished(work(files, tmp_path / "alone"))
    simulated, alone = (read_metrics(tmp_path / where / "result") for where in ("simulated", "alone"))
    assert (simulated.data.users, simulated.data.events) == (alone.data.users, alone.data.events)
    assert simulated.data.users < len(everybody.dataset.user_ids)
