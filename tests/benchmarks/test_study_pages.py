"""Pages that are made of studies' records, against what the records say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmark_scripts import SCRIPTS
from pplr.report.record import read_record
from pplr.study.grid import Cell, cells
from pplr.study.records import record_cell, recorded
from pplr.study.run import find_folder, run_cells
from pplr.study.settings import load_study
from whole_runs import configuration


def trained_study(files: Path, folder: Path, axes: str, base: str = "") -> tuple[Path, list[Cell]]:
    """A study of one round on the events in `folder`, whose cells have been run: its file, and the cells."""
    for name in ("events.csv", "items.csv"):
        (folder / name).write_bytes((files / name).read_bytes())
    path = folder / "small.toml"
    model = configuration(files).backbone.model
    text = f"""
name = "small"
{axes.partition("[axes]")[0]}
[base]
threads = 1
{base}
data = {{ events = "events.csv", items = "items.csv" }}
backbone = {{ kind = "sequence", model = "{model}", width = 16, positions = 8 }}
federation.rounds = 1
training.batch_tokens = 600
[axes]{axes.partition("[axes]")[2]}"""
    path.write_text(text, encoding="utf-8")
    grid = cells(load_study(path), folder)
    assert run_cells(grid, folder / "runs") == []
    return path, grid


def test_every_way_to_part_the_users_is_compared_by_the_seeds_that_all_strategies_have(script, files, tmp_path):
    axes = """
reference = { strategy = "fedavg" }
[axes]
seed = [1, 2]
[axes.clients.two]
clients = { kind = "random", count = 2 }
[axes.clients.three]
clients = { kind = "random", count = 3 }
[axes.strategy."pplr, items added up"]
strategy = { kind = "pplr", items = "sum" }
[axes.strategy.fedavg]
strategy.kind = "fedavg"
"""
    path, grid = trained_study(files, tmp_path, axes)
    found = {}
    for cell in grid:
        two = cell.config.clients.count == 2
        if cell.labels["seed"] == "1" or (two and cell.labels["strategy"] == "fedavg"):
            folder = find_folder(tmp_path / "runs", cell)
            record_cell(cell, folder, tmp_path / "records")
            metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
            found[two, cell.labels["strategy"], cell.labels["seed"]] = metrics["overall"]["ndcg@10"]
    lines = script("study_pages").by_clients(path, tmp_path / "records").splitlines()
    assert len(lines) == 4
    for line, two in zip(lines[2:], (True, False), strict=True):
        cells_of = [part.strip() for part in line.split("|")[1:-1]]
        assert cells_of[1] == "1", "fedavg has two seeds, pplr one"
        pplr_first, fedavg = (found[two, strategy, "1"] for strategy in ("pplr, items added up", "fedavg"))
        assert cells_of[2].startswith(f"{pplr_first:.4f} / ")
        assert cells_of[3].startswith(f"{fedavg:.4f} / ")
        assert cells_of[4].strip("*").startswith(f"{pplr_first - fedavg:+.4f} [")
    for cell in grid:
        if cell.config.clients.count == 3 and cell.labels["strategy"] != "fedavg" and cell.labels["seed"] == "1":
            recorded(tmp_path / "records")[cell.digest].unlink()
    (alone,) = [
        line
        for line in script("study_pages").by_clients(path, tmp_path / "records").splitlines()
        if line.startswith("| three |")
    ]
    assert [part.strip() for part in alone.split("|")[1:-1]] == [
        "three", "1", "", alone.split("|")[4].strip(), "", "",
    ], "what only the reference was run with stays, without differences"  # fmt: skip
    assert alone.split("|")[4].strip().startswith(f"{found[False, 'fedavg', '1']:.4f} / ")


def test_a_run_that_ranked_nothing_for_validation_is_shown_by_its_loss(script):
    runs, pages = script("study_runs"), script("study_pages")
    folder = pages.STUDIES / "results" / "backbones"
    path = next(folder.glob("generative-fedavg-*"))
    metrics = read_record(path).metrics
    last = metrics.rounds[metrics.stopped.best_round - 1].clients.values()
    losses = [one.validation_loss for one in last]
    assert runs.best_loss(metrics) == pytest.approx(np.average(losses, weights=[one.users for one in last]))
    early = metrics.model_copy(update={"stopped": metrics.stopped.model_copy(update={"best_round": 1})})
    assert runs.best_loss(metrics) < runs.best_loss(early)
    untrained = read_record(next(folder.glob("generative-zero-shot-*"))).metrics
    assert runs.best_loss(untrained) is None
    group = {"runs": [{"label": "fedavg", "folders": [path.name]}]}
    (row,) = pages.validation(group, folder).splitlines()[2:]
    assert row == f"| fedavg | loss a token {runs.best_loss(metrics):.3f} |  | 4 |"


def by_data(found):
    return {
        run["data"]: [other for other in found["runs"].values() if other["data"] == run["data"]]
        for run in found["runs"].values()
    }


def test_pages_of_buckets_and_of_mixing_in_place_hold_the_figures_that_were_measured(script):
    pages, results = script("study_pages"), SCRIPTS / "results"
    found = json.loads((results / "buckets.json").read_text(encoding="utf-8"))
    text = pages.new_items(found)
    parts = {data: pages._buckets(data, runs) for data, runs in by_data(found).items()}
    assert all(part in text for part in parts.values()) and len(parts) == 2
    for run in found["runs"].values():
        part = parts[run["data"]]
        assert f"| {pages.how_trained(run)} |" in part
        figures = run["buckets"]["new items"]["run"]
        row = next(line for line in part.splitlines() if line.startswith("| new items"))
        assert f"{figures['recall@10']:.4f} / {figures['ndcg@10']:.4f}" in row
        assert len({line.count("|") for line in part.splitlines() if line.startswith("|")}) == 1
    assert "`own`" in text
    mixed = json.loads((results / "in_place.json").read_text(encoding="utf-8"))
    rows = pages.in_place(mixed).splitlines()[2:]
    assert [row.split(" | ")[0].strip("| ") for row in rows] == ["neither", "forwards", "backwards"]
    for row, order in zip(rows, ("neither", "forwards", "backwards"), strict=True):
        assert f"{mixed['runs'][f'{order}, seed 1']['overall']:.4f}" in row


def test_every_record_that_is_shipped_is_of_a_cell_of_its_study(script):
    """Else a default has changed since, and a page loses a row without a word."""
    studies = script("study_pages").STUDIES
    for folder in sorted((studies / "results").iterdir()):
        path = studies / f"{folder.name}.toml"
        known = {cell.digest for cell in cells(load_study(path), Path("/data"))}
        found = recorded(folder)
        assert len(found) == len(list(folder.glob("*.record.json"))) > 0
        assert set(found) <= known, (folder.name, [found[digest].name for digest in set(found) - known])


def test_what_the_pages_say_of_studies_is_what_their_records_say(script):
    pages = script("study_pages")
    text = {page.name: page.read_text(encoding="utf-8") for page in pages.PAGES}
    seen = 0
    for path in sorted(pages.STUDIES.glob("*.toml")):
        if not (pages.STUDIES / "results" / path.stem).is_dir():
            continue
        (page,) = [each for each in text.values() if f"<!-- {path.stem}:start -->" in each]
        table = page.partition(f"<!-- {path.stem}:start -->")[2].partition(f"<!-- {path.stem}:end -->")[0]
        axes = [axis for axis in pages.load_study(path).axes if axis != "seed"]
        if len(axes) > 1:
            continue  # the same label in several tables
        for label, records in script("study_runs").variants(path, axes[0]).items():
            overall = [read_record(record).metrics.overall.figure("ndcg@10") for record in records.values()]
            (row, *_) = [line for line in table.splitlines() if line.startswith(f"| {label} |")]
            assert f"{np.mean(overall):.4f}" in row, (path.stem, label)
            assert f"| {', '.join(sorted(records))} |" in row
            seen += 1
    assert seen > 40


def test_the_tables_at_the_top_are_of_the_records_and_stand_on_the_page(script):
    top = script("main_table")
    page = (SCRIPTS.parent / "docs" / "results.md").read_text(encoding="utf-8")
    sasrec, counts, references = (
        json.loads((SCRIPTS / "results" / f"{name}.json").read_text(encoding="utf-8"))[key]
        for name, key in (("sasrec", "data"), ("against_counts", "runs"), ("references", "data"))
    )
    steps, shown = top.steps(), 0
    assert steps in page
    for study, (title, name) in top.MAIN.items():
        found = top.variants(top.STUDIES / f"{study}.toml")
        column = top._reached(study, sasrec, references)
        factors = references[f"{name}, leave-one-out"]["seeds"]
        mean = np.mean([seed["federated_mf"]["overall"]["ndcg@10"] for seed in factors.values()])
        assert column["matrix factorisation, federated"].startswith(f"{mean:.4f} / ")
        first, second = (
            page.partition("<!-- overview:start -->")[2].partition("<!-- overview:end -->")[0].strip().split("\n\n")
        )
        rows, behind = (
            {cells[0]: cells[1:] for line in table.splitlines() if (cells := line.strip("| ").split(" | "))}
            for table in (first, second)
        )
        at = rows["NDCG@10, all users / worst client"].index(title)
        for row, text in top.from_counts(counts[title]).items():
            assert behind[row][at] == text != "not run"
            overall = counts[title]["minus"][top.COUNTS[row.rpartition(", ")[0]]]["overall"]
            if row.endswith("all users"):
                assert text.strip("*").startswith(f"{overall['first'] - overall['second']:+.4f} [")
        (step,) = [line.strip("| ").split(" | ") for line in steps.splitlines() if line.startswith(f"| {title} ")]
        for row, label in top.ROWS.items():
            shown_label = next((each for each in (label, f"{label}, moments fresh") if each in found), label)
            records = found.get(shown_label)
            assert rows[row][at] == column[row]
            if records is None:
                assert column[row] == "not run"
                continue
            metrics = [read_record(record).metrics for record in records.values()]
            assert column[row].startswith(f"{np.mean([one.overall.figure('ndcg@10') for one in metrics]):.4f} / ")
            assert ("ᶠ" in column[row]) == shown_label.endswith("fresh")
            if len(metrics) == 1:
                clients = [one.figure("ndcg@10") for one in metrics[0].clients.values()]
                assert f" / {min(clients):.4f}" in column[row]
                shown += 1
        for label, text in zip(top.STEPS.values(), step[1:], strict=True):
            first = found.get(label, {}).get("1")
            assert text == (
                f"{read_record(first).metrics.overall.figure('ndcg@10'):.4f}" if first is not None else "not run"
            )
    assert shown > 5


def test_how_far_others_are_behind_is_said_of_the_seeds_of_both_and_of_todays_runs_alone(script):
    top = script("main_table")
    found = top.variants(top.STUDIES / "movietweetings.toml")
    some = {"pplr": found["pplr"], "fedavg": {"2": found["fedavg"]["2"]}, "local, moments fresh": found["local"]}
    column = top._distances(some)
    ours, theirs = (read_record(some[label]["2"]).metrics.overall.figure("ndcg@10") for label in ("pplr", "fedavg"))
    assert column["`fedavg`, all users"].strip("*").startswith(f"{ours - theirs:+.4f} [")
    assert column["`local`, worst client"] == "fresh only"
    assert column["`centralised`, all users"] == "not run"
    difference = {"first": 0.3, "second": 0.1, "low": 0.15, "high": 0.25, "level": 0.95, "users": 9}
    counts = top.from_counts({"minus": {"item_knn": {"overall": difference}}})
    assert counts["item-kNN, pooled, all users"] == "**+0.2000 [+0.1500, +0.2500]**"
    assert counts["transitions, pooled, all users"] == counts["item-kNN, pooled, worst client"] == "not run"


def test_runs_are_compared_with_counting_for_the_same_users_and_on_the_same_data_only(script, files, tmp_path):
    axes = '[axes]\nseed = [1, 2]\n[axes.strategy.pplr]\nstrategy.kind = "pplr"\n'
    path, grid = trained_study(files, tmp_path, axes, 'clients = { kind = "random", count = 3 }')
    for cell in grid:
        record_cell(cell, find_folder(tmp_path / "runs", cell), tmp_path / "records")
    module, output = script("against_counts"), tmp_path / "r.json"
    given = [str(path), "--records", str(tmp_path / "records"), "--name", "one", "--output", str(output)]
    module.main(given)
    minus = json.loads(output.read_text(encoding="utf-8"))["runs"]["one"]["minus"]
    metrics = [read_record(place).metrics for place in (tmp_path / "records").glob("*.record.json")]
    for name in ("popularity", "transitions", "item_knn"):
        ours = np.mean([one.overall.figure("ndcg@10") for one in metrics])
        assert minus[name]["overall"]["first"] == pytest.approx(ours)
        assert minus[name]["overall"]["second"] == pytest.approx(metrics[0].baselines[name].overall.figure("ndcg@10"))
        worst = np.mean([min(each.figure("ndcg@10") for each in one.clients.values()) for one in metrics])
        assert minus[name]["worst_client"]["first"] == pytest.approx(worst)
        assert minus[name]["overall"]["low"] < ours - minus[name]["overall"]["second"] < minus[name]["overall"]["high"]
    lines = (tmp_path / "events.csv").read_text(encoding="utf-8").splitlines()
    (tmp_path / "events.csv").write_text("\n".join(lines[:-9]), encoding="utf-8")
    with pytest.raises(SystemExit, match="are other data"):
        module.main(given)
