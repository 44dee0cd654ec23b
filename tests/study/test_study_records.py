"""Records of a study: what they replace, when they count, and when they do not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from test_study_runs import write_study
from typer.testing import CliRunner

from pplr.cli.app import app
from pplr.config import parse_config
from pplr.errors import RunError
from pplr.report.comparison import compare_variants
from pplr.report.folder import read_configuration
from pplr.report.variants import by_configuration
from pplr.study.grid import cells, digest_of
from pplr.study.records import RECORDS, record_cell, recorded
from pplr.study.run import State, find_folder, find_result, run_cells, state_of
from pplr.study.settings import load_study
from pplr.study.tables import write_tables

FORMATS = ("tables/small.md", "tables/small.tex", "tables/small.csv", "study.html")


@pytest.fixture(scope="module")
def study(files, tmp_path_factory):
    """A study that ran to its end, its settings, cells and folder, and its records alone in another folder."""
    folder, alone = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("alone")
    settings = load_study(write_study(folder, files))
    grid = cells(settings, files)
    assert run_cells(grid, folder) == []
    shutil.copytree(folder / RECORDS, alone / RECORDS)
    return settings, grid, folder, alone


def places(grid, folder: Path):
    known = recorded(folder / RECORDS)
    return [(cell, find_result(folder, cell, known)) for cell in grid]


def test_every_finished_cell_leaves_a_record(study):
    _, grid, folder, _ = study
    assert {path.name for path in (folder / RECORDS).glob("*.json")} == {f"{cell.folder}.record.json" for cell in grid}
    assert {path for _, path in places(grid, folder)} == {find_folder(folder, cell) for cell in grid}


def test_tables_and_plots_from_records_alone_are_those_of_the_run_folders(study):
    settings, grid, folder, alone = study
    for where in (folder, alone):
        write_tables(settings, places(grid, where), where, samples=50)
    for name in FORMATS:
        assert (folder / name).read_text() == (alone / name).read_text(), name
    assert not (alone / "cells").exists()


def test_what_has_a_record_is_not_run(study, monkeypatch):
    _, grid, _, alone = study
    monkeypatch.setattr("pplr.study.run.run", lambda *a, **k: pytest.fail("a cell ran again"))
    assert run_cells(grid, alone) == []
    assert {state_of(path) for _, path in places(grid, alone)} == {State.DONE}


def test_only_the_cell_without_a_record_is_run(study, files, tmp_path):
    _, grid, _, alone = study
    shutil.copytree(alone / RECORDS, tmp_path / RECORDS)
    (tmp_path / RECORDS / f"{grid[2].folder}.record.json").unlink()
    assert run_cells(grid, tmp_path) == []
    assert [path.name for path in (tmp_path / "cells").iterdir()] == [grid[2].folder]
    mine, theirs = ((where / RECORDS / f"{grid[2].folder}.record.json") for where in (tmp_path, alone))
    assert json.loads(mine.read_text())["per_user"] == json.loads(theirs.read_text())["per_user"]


def test_a_run_without_a_record_gets_one(study, tmp_path):
    _, grid, folder, _ = study
    assert run_cells(grid[:2], folder, records=tmp_path / "elsewhere") == []
    assert set(recorded(tmp_path / "elsewhere")) == {cell.digest for cell in grid[:2]}


def test_a_record_counts_for_its_configuration_and_no_other(study, files, tmp_path):
    """A key that is newer than the record stands for what was done before it; a key with another value is another cell."""
    _, grid, folder, _ = study
    path = record_cell(grid[0], find_folder(folder, grid[0]), tmp_path)
    content = json.loads(path.read_text())
    del content["configuration"]["evaluation"]["references"]
    path.write_text(json.dumps(content))
    assert set(recorded(tmp_path)) == {grid[0].digest}
    content["configuration"]["training"]["epochs"] = 7
    path.write_text(json.dumps(content))
    assert not set(recorded(tmp_path)) & {cell.digest for cell in grid}
    content["configuration"]["training"]["epoch"] = 7
    path.write_text(json.dumps(content))
    assert recorded(tmp_path) == {}


def test_what_was_measured_before_a_key_is_no_cell_of_its_default_and_no_seed_of_its_variant(study, tmp_path):
    """Optimisers started afresh when there was no key that said so, and vectors of items were averaged."""
    _, grid, _, alone = study
    shutil.copytree(alone / RECORDS, tmp_path / RECORDS)
    mine = [cell for cell in grid if cell.labels["strategy"] == "pplr"]
    paths = [tmp_path / RECORDS / f"{cell.folder}.record.json" for cell in mine]
    assert len(by_configuration(paths)) == 1
    content = json.loads(paths[0].read_text())
    del content["configuration"]["training"]["moments"]
    paths[0].write_text(json.dumps(content))
    known = recorded(tmp_path / RECORDS)
    assert {cell.digest for cell in mine} - set(known) == {mine[0].digest}
    assert len(by_configuration(paths)) == 2
    content["configuration"]["training"]["moments"] = "kept"
    del content["configuration"]["strategy"]["items"]
    paths[0].write_text(json.dumps(content))
    assert mine[0].digest not in recorded(tmp_path / RECORDS)


def test_a_run_folder_of_before_a_key_is_read_as_it_was_meant(study, tmp_path):
    _, grid, folder, _ = study
    mine = [cell for cell in grid if cell.labels["strategy"] == "pplr"]
    for cell in mine:
        shutil.copytree(find_folder(folder, cell), tmp_path / cell.folder)
    places = [tmp_path / cell.folder for cell in mine]
    assert len(by_configuration(places)) == 1
    written = places[0] / "config.toml"
    written.write_text(written.read_text().replace('moments = "kept"\n', ""))
    assert len(by_configuration(places)) == 2
    assert read_configuration(places[0]).training.moments == "fresh"


def test_the_digest_of_a_record_is_that_of_its_cell_wherever_it_lies(study, tmp_path):
    _, grid, _, _ = study
    for cell in grid:
        content = json.loads(json.dumps(cell.content))
        assert digest_of(parse_config(content, tmp_path), cell.content) == cell.digest
        assert cell.content["data"]["events"] == "events.csv"


def test_a_damaged_record_is_named(study, tmp_path):
    _, grid, _, alone = study
    shutil.copytree(alone / RECORDS, tmp_path / RECORDS)
    damaged = tmp_path / RECORDS / f"{grid[1].folder}.record.json"
    damaged.write_text(damaged.read_text()[:-40])
    with pytest.raises(RunError, match=damaged.name):
        run_cells(grid, tmp_path)


def test_records_are_compared_as_runs_are(study):
    _, grid, folder, alone = study
    some = [cell for cell in grid if cell.labels["strategy"] in ("pplr", "fedavg")]
    found = []
    for paths in (
        [find_folder(folder, cell) for cell in some],
        [alone / RECORDS / f"{cell.folder}.record.json" for cell in some],
    ):
        runs = compare_variants(by_configuration(paths), samples=50).as_dict()["runs"]
        found.append([{key: value for key, value in run.items() if key != "folders"} for run in runs])
    assert found[0] == found[1]
    assert [run["seeds"] for run in found[0]] == [(1, 2), (1, 2)]


def test_the_command_writes_tables_from_records_and_runs_nothing(study, files, tmp_path, monkeypatch):
    _, _, folder, alone = study
    monkeypatch.setattr("pplr.study.run.run", lambda *a, **k: pytest.fail("a cell ran"))
    words = ["study", str(folder / "small.toml"), "--data-folder", str(files), "--out", str(tmp_path / "out")]
    words += ["--records", str(alone / RECORDS), "--no-run", "--samples", "20", "--json"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    listed = json.loads(result.stdout)
    assert {cell["state"] for cell in listed["cells"]} == {"done"}
    assert [run["label"] for run in listed["groups"][0]["runs"]] == ["fedavg", "pplr", "fedper", "untrained"]
    assert {path.name for path in (tmp_path / "out").glob("[!.]*")} == {"tables", "study.html", "study.json"}
