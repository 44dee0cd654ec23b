"""Studies of tiny runs: what is run, what is not run again, what a killed study leaves, and what the tables say."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest

import pplr
import pplr.backbones
import pplr.wiring
from pplr import run_folder
from pplr.errors import ModelError, RunError
from pplr.report.folder import read_metrics
from pplr.study.grid import cells
from pplr.study.records import record_cell
from pplr.study.run import State, find_folder, run_cells, state_of
from pplr.study.settings import load_study
from pplr.study.tables import write_tables
from whole_runs import assert_same_result

STUDY = """
name = "small"
reference = {{ strategy = "fedavg" }}

[base]
threads = 1
[base.data]
events = "events.csv"
items = "items.csv"
columns.silo = "silo"
[base.clients]
kind = "column"
[base.backbone]
kind = "sequence"
model = "{model}"
width = 16
positions = 8
[base.training]
epochs = 1
batch_tokens = 600
[base.federation]
rounds = {rounds}
[base.evaluation]
ks = [5, 10]

[axes.strategy.pplr]
strategy.kind = "pplr"
[axes.strategy.fedavg]
strategy.kind = "fedavg"
[axes.strategy.fedper]
strategy.kind = "fedper"
[axes.strategy.untrained]
strategy.kind = "local"
federation.rounds = 0
[axes]
seed = [1, 2]
"""


def write_study(folder: Path, files: Path, rounds: int = 2, more: str = "") -> Path:
    path = folder / "small.toml"
    path.write_text(STUDY.format(model=files / "bert", rounds=rounds) + more)
    return path


@pytest.fixture(scope="module")
def study(files, tmp_path_factory):
    """A study that ran to its end: its settings, its cells and its folder; nobody changes it."""
    folder = tmp_path_factory.mktemp("study")
    settings = load_study(write_study(folder, files))
    grid = cells(settings, files)
    assert run_cells(grid, folder) == []
    return settings, grid, folder


@pytest.fixture(scope="module")
def groups(study):
    settings, grid, folder = study
    return write_tables(settings, [(cell, find_folder(folder, cell)) for cell in grid], folder, samples=100)


def test_cells_that_share_a_process_give_the_numbers_of_runs_alone(study, files, tmp_path):
    """Data and backbone are loaded once, and fedper has another layout than its neighbours."""
    _, grid, folder = study
    for cell in (grid[4], grid[-1]):
        pplr.run(cell.config, tmp_path / cell.digest)
        assert_same_result(find_folder(folder, cell), tmp_path / cell.digest)


def test_data_and_model_are_loaded_once(files, tmp_path, monkeypatch):
    loaded = []
    for module, name in ((pplr.wiring, "load"), (pplr.backbones, "_backbone")):
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, name=name, real=real: loaded.append(name) or real(*a))
    run_cells(cells(load_study(write_study(tmp_path, files)), files)[:4], tmp_path)
    assert loaded == ["load", "_backbone"]


def test_a_cell_without_rounds_is_measured_as_it_was_drawn(study):
    _, grid, folder = study
    metrics = json.loads((find_folder(folder, grid[-1]) / "metrics.json").read_text())
    assert metrics["rounds"] == []
    assert metrics["stopped"] == {"round": 0, "best_round": 0, "reason": "rounds"}
    assert metrics["overall"]["ndcg@10"] is not None


def test_what_is_done_is_not_run_again_whatever_it_is_called_now(study, monkeypatch):
    settings, grid, folder = study
    monkeypatch.setattr("pplr.study.run.run", lambda *a, **k: pytest.fail("a cell ran again"))
    renamed = settings.model_copy(update={"axes": {"seed": [1, 2], "way": settings.axes["strategy"]}})
    again = cells(renamed, grid[0].config.data.events.parent)
    assert {cell.digest for cell in again} == {cell.digest for cell in grid}
    assert run_cells(again, folder) == []


def test_damaged_cells_are_measured_again_or_run_anew(study, files, tmp_path):
    _, grid, folder = study
    some = grid[:3]
    for cell in some:
        shutil.copytree(find_folder(folder, cell), find_folder(tmp_path, cell))
    (find_folder(tmp_path, some[0]) / "metrics.json").write_text("{")
    (find_folder(tmp_path, some[1]) / "per_user.parquet").unlink()
    shutil.rmtree(find_folder(tmp_path, some[2]) / "checkpoints")
    (find_folder(tmp_path, some[2]) / "config.toml").write_text("[")
    assert [state_of(find_folder(tmp_path, cell)) for cell in some] == [State.BEGUN] * 3
    seen = []
    assert run_cells(some, tmp_path, seen.append) == []
    assert [event.data["title"] for event in seen if event.name == "cell_anew"] == [some[2].title]
    assert len([event for event in seen if event.name == "round_finished"]) == 2  # only the third was trained
    for cell in some:
        assert_same_result(find_folder(folder, cell), find_folder(tmp_path, cell))


def test_a_cell_that_fails_does_not_keep_the_others_from_running(files, tmp_path):
    broken = '[axes.model.bert]\nbackbone.kind = "sequence"\n[axes.model.gone]\nbackbone.model = "./gone"\n'
    grid = cells(load_study(write_study(tmp_path, files, 1, broken)), files)
    some = [cell for cell in grid if cell.labels["strategy"] == "pplr"]
    failures = run_cells(some, tmp_path)
    assert [failure.cell.title for failure in failures] == ["pplr, seed 1, gone", "pplr, seed 2, gone"]
    assert all(isinstance(failure.error, ModelError) for failure in failures)
    states = [state_of(find_folder(tmp_path, cell)) for cell in some]
    assert states == [State.DONE, State.MISSING, State.DONE, State.MISSING]


def test_what_another_process_runs_or_has_recorded_is_left_to_it(study, files, tmp_path):
    _, grid, done = study
    some = grid[:3]
    seen = []

    def another(event):
        """Record the last cell while the second one begins."""
        seen.append(event)
        if event.name == "cell_started" and event.data["title"] == some[1].title:
            record_cell(some[2], find_folder(done, some[2]), tmp_path / "records")

    with run_folder.held(find_folder(tmp_path, some[0])):
        assert run_cells(some, tmp_path, another) == []
    states = [state_of(find_folder(tmp_path, cell)) for cell in some]
    assert states == [State.MISSING, State.DONE, State.MISSING]
    assert [event.data["title"] for event in seen if event.name == "cell_elsewhere"] == [some[0].title]
    assert run_cells(some, tmp_path) == []
    assert state_of(find_folder(tmp_path, some[0])) is State.DONE


def test_a_server_that_is_away_does_not_make_checkpoints_worthless(study, tmp_path, monkeypatch):
    _, grid, done = study
    folder = find_folder(tmp_path, grid[0])
    shutil.copytree(find_folder(done, grid[0]), folder)
    (folder / "metrics.json").unlink()
    before = sorted(path.name for path in (folder / "checkpoints").iterdir())

    def away(*_: object, **__: object) -> None:
        raise RunError("The server does not answer.")

    monkeypatch.setattr("pplr.runner._train", away)
    (failure,) = run_cells(grid[:1], tmp_path)
    assert "does not answer" in str(failure.error)
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == before != []


def test_a_mistake_after_the_figures_are_written_is_a_failure(study, tmp_path, monkeypatch):
    _, grid, _ = study

    def broken(*_: object, **__: object) -> None:
        raise RunError("the report cannot be written")

    monkeypatch.setattr("pplr.report.write_report", broken)
    (failure,) = run_cells(grid[:1], tmp_path)
    assert "the report cannot be written" in str(failure.error)


def test_records_and_tables_of_processes_that_end_together_are_whole(study, tmp_path):
    _, grid, folder = study
    own = write_study(tmp_path, grid[0].config.data.events.parent)
    words = [sys.executable, "-c", WRITER, str(find_folder(folder, grid[0])), str(tmp_path), str(own)]
    both = [subprocess.Popen(words, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    assert [(one.communicate()[1], one.returncode) for one in both] == [("", 0), ("", 0)]
    assert read_metrics(tmp_path / "cell.record.json").overall == read_metrics(find_folder(folder, grid[0])).overall


WRITER = """
import sys
from pathlib import Path
from types import SimpleNamespace
from pplr.study.grid import cells
from pplr.study.records import record_cell
from pplr.study.settings import load_study
from pplr.study.tables import write_tables

run, folder, study = map(Path, sys.argv[1:])
for _ in range(60):
    record_cell(SimpleNamespace(folder="cell", content={}), run, folder)
settings = load_study(study)
cell = cells(settings, folder)[0]
for _ in range(5):
    write_tables(settings, [(cell, run)], folder, samples=10)
"""


def test_a_begun_cell_that_another_process_goes_on_with_is_not_run_anew(study, tmp_path):
    _, grid, done = study
    folder = find_folder(tmp_path, grid[0])
    shutil.copytree(find_folder(done, grid[0]), folder)
    (folder / "metrics.json").unlink()
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    with run_folder.held(folder):
        assert run_cells(grid[:1], tmp_path) == []
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


def test_a_killed_study_goes_on_and_ends_with_the_same_numbers(study, files, tmp_path):
    _, grid, folder = study
    path = write_study(tmp_path, files)
    out = tmp_path / "out"
    words = [
        sys.executable,
        "-m",
        "pplr",
        "study",
        str(path),
        "--data-folder",
        str(files),
        "--out",
        str(out),
        "--quiet",
    ]
    for kills in range(2):
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=dict(os.environ))
        limit = time.monotonic() + 120
        while len(list(out.glob("cells/*/checkpoints/round-*"))) <= 2 * kills + 1:
            assert process.poll() is None
            assert time.monotonic() < limit
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert any(state_of(find_folder(out, cell)) is not State.DONE for cell in grid)
    assert run_cells(cells(load_study(path), files), out) == []
    for cell in grid:
        assert_same_result(find_folder(folder, cell), find_folder(out, cell))


def test_tables_hold_means_over_seeds_and_the_reference_stands_first(study, groups):
    _, grid, folder = study
    assert [group.title for group in groups] == [""]
    comparison = groups[0].comparison
    assert [run.label for run in comparison.runs] == ["fedavg", "pplr", "fedper", "untrained"]
    assert comparison.runs[0].seeds == (1, 2)
    values = [
        pl.read_parquet(find_folder(folder, cell) / "per_user.parquet")["ndcg@10"].mean()
        for cell in grid
        if cell.labels["strategy"] == "pplr"
    ]
    pplr_row = comparison.runs[1]
    assert pplr_row.overall == pytest.approx(sum(values) / 2)
    assert pplr_row.overall_std == pytest.approx(abs(values[0] - values[1]) / 2**0.5)
    assert pplr_row.difference.estimate == pytest.approx(pplr_row.overall - comparison.runs[0].overall)


def test_all_formats_say_the_same(study, groups):
    _, _, folder = study
    row = groups[0].comparison.runs[1]
    table = {
        line["variant"]: line for line in csv.DictReader((folder / "tables" / "small.csv").read_text().splitlines())
    }
    assert float(table["pplr"]["overall"]) == row.overall
    assert float(table["pplr"]["worst_high"]) == row.worst_difference.high
    text = f"{row.overall:.4f} ± {row.overall_std:.4f}"
    assert f"| pplr | pplr | 1, 2 | {text} |" in (folder / "tables" / "small.md").read_text()
    assert f"pplr & {text.replace('±', '$' + chr(92) + 'pm$')} &" in (folder / "tables" / "small.tex").read_text()
    summary = json.loads((folder / "study.json").read_text())
    assert summary["groups"][0]["runs"][1]["overall"] == row.overall
    assert str(folder) not in json.dumps(summary["study"])


def test_baselines_of_the_reference_stand_below_the_variants(study, groups):
    _, grid, folder = study
    metrics = [
        json.loads((find_folder(folder, cell) / "metrics.json").read_text())
        for cell in grid
        if cell.labels["strategy"] == "fedavg"
    ]
    found = {each.name: each for each in groups[0].comparison.baselines}
    assert list(found) == list(metrics[0]["baselines"])
    for name, each in found.items():
        own = [record["baselines"][name] for record in metrics]
        assert each.overall == pytest.approx(sum(record["overall"]["ndcg@10"] for record in own) / 2)
        assert each.worst == pytest.approx(sum(record["balance"]["ndcg@10"]["worst"] for record in own) / 2)
    text = f"{found['item_knn'].overall:.4f} | {found['item_knn'].worst:.4f} |"
    assert f"| item-kNN |  |  | {text}" in (folder / "tables" / "small.md").read_text()
    assert f"item-kNN & {text.replace(' |', ' &')}" in (folder / "tables" / "small.tex").read_text()
    row = next(
        line
        for line in csv.DictReader((folder / "tables" / "small.csv").read_text().splitlines())
        if line["variant"] == "item_knn"
    )
    assert (float(row["overall"]), row["difference"]) == (found["item_knn"].overall, "")
    summary = json.loads((folder / "study.json").read_text())
    assert summary["groups"][0]["baselines"][0]["name"] == "popularity"
    assert ">item-kNN<" in (folder / "study.html").read_text()


def test_the_page_has_every_plot_and_loads_nothing(study, groups):
    _, _, folder = study
    page = (folder / "study.html").read_text()
    for title in ("overall against the worst client", "NDCG@10 by client", "training loss", "learning speed w"):
        assert title in page
    assert "pplr: similarity s, round 2" in page
    assert 'src="http' not in page
    assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page


def test_groups_that_one_axis_tells_apart_have_tables_and_titles_of_their_own(study, files, tmp_path):
    settings, _, _ = study
    ways = {"local": {"strategy": {"kind": "local"}}, "fedavg": {"strategy": {"kind": "fedavg"}}}
    few = {"evaluation": {"ks": [2, 10]}}
    what = {f"all {name}": way for name, way in ways.items()} | {f"few {name}": way | few for name, way in ways.items()}
    axes = {"what": what, "federation.rounds": [0]}
    other = settings.model_copy(update={"axes": axes, "reference": {"what": "all fedavg"}})
    grid = cells(other, files)
    assert run_cells(grid, tmp_path) == []
    found = write_tables(other, [(cell, find_folder(tmp_path, cell)) for cell in grid], tmp_path, samples=10)
    assert [group.title for group in found] == ["all fedavg | all local", "few local | few fedavg"]
    assert [group.table for group in found] == ["small", "small-2"]
    tables = [(tmp_path / "tables" / f"{group.table}.md").read_text() for group in found]
    assert "few" not in tables[0] and "all" not in tables[1].partition("The reference")[0]
    note = "The reference, what = 'all fedavg', is not among these runs: differences are to few local."
    assert [group.comparison.notes for group in found] == [(), (note,)]
    assert note in tables[1]


def test_cells_that_cannot_be_compared_stand_in_tables_of_their_own(study, files, tmp_path):
    settings, _, _ = study
    axes = {
        "data": {"all": {}, "two items": {"evaluation": {"ks": [2, 10]}}},
        "strategy": {"local": {"strategy": {"kind": "local"}}, "fedavg": {"strategy": {"kind": "fedavg"}}},
        "federation.rounds": [0],
    }
    other = settings.model_copy(update={"axes": axes, "reference": {}})
    grid = cells(other, files)
    assert run_cells(grid, tmp_path) == []
    found = write_tables(other, [(cell, find_folder(tmp_path, cell)) for cell in grid], tmp_path, samples=10)
    assert [(group.title, [run.label for run in group.comparison.runs]) for group in found] == [
        ("all", ["local", "fedavg"]),
        ("two items", ["local", "fedavg"]),
    ]
    assert {path.name for path in (tmp_path / "tables").glob("*.md")} == {"all.md", "two-items.md"}
    content = json.loads((tmp_path / "study.json").read_text())
    assert [group["table"] for group in content["groups"]] == ["all", "two-items"]
