"""`pplr study` and the options of `pplr compare` that stand for several runs."""

from __future__ import annotations

import json
import shutil

import pytest

CONFIGURATION = """
name = "two"
[axes.strategy.fedavg]
strategy.kind = "fedavg"
[axes.strategy.local]
strategy.kind = "local"
[axes]
seed = [1, 2]
[base]
"""


@pytest.fixture(scope="module")
def path(workplace):
    """A study over the tiny shop."""
    lines = (workplace / "shop.toml").read_text().replace('name = "tiny"', "").splitlines()
    base = [f"[base.{line[1:]}" if line.startswith("[") else line for line in lines]
    path = workplace / "two.toml"
    path.write_text(CONFIGURATION + "\n".join(base))
    return path


def test_a_study_from_its_plan_to_its_tables(cli, path, workplace):
    out = workplace / "two"
    planned = json.loads(cli("study", path, "--out", out, "--dry-run", "--json").stdout)
    assert [cell["state"] for cell in planned] == ["missing"] * 4
    assert not out.exists()
    done = cli("study", path, "--out", out, "--samples", 50, "--json")
    assert done.exit_code == 0, done.stderr
    assert "Cell 1 of 4: fedavg, seed 1" in done.stderr
    assert "left for the study" in done.stderr.partition("Cell 4 of 4")[2]
    found = json.loads(done.stdout)
    assert [cell["state"] for cell in found["cells"]] == ["done"] * 4
    assert [run["label"] for run in found["groups"][0]["runs"]] == ["fedavg", "local"]
    again = cli("study", path, "--out", out, "--samples", 50)
    assert "Cell" not in again.stderr
    assert "±" in again.stdout
    assert "4 cells: 4 done" in cli("study", path, "--out", out, "--dry-run").stdout

    for kept in [*out.glob("records/local-2-*"), *out.glob("cells/local-2-*")]:
        shutil.rmtree(kept) if kept.is_dir() else kept.unlink()
    only = ("--only", "strategy=local", "--only", "seed=2")
    assert "1 cell: 1 missing" in cli("study", path, "--out", out, "--dry-run", *only).stdout
    one = json.loads(cli("study", path, "--out", out, "--samples", 50, "--json", *only).stdout)
    assert [cell["labels"] for cell in one["cells"]] == [{"strategy": "local", "seed": "2"}]
    assert one["groups"][0]["runs"] == found["groups"][0]["runs"], "tables are of all that is done"

    folders = sorted((out / "cells").iterdir())
    over = json.loads(cli("compare", *folders, "--over-seeds", "--samples", 50, "--json").stdout)
    assert [run["seeds"] for run in over["runs"]] == [[1, 2], [1, 2]]
    assert over["runs"][1]["overall"] == found["groups"][0]["runs"][1]["overall"]
    text = cli("compare", *folders, "--over-seeds", "--format", "latex", "--plots", workplace / "plots.html").stdout
    assert text.startswith(r"\begin{tabular}")
    assert "<html" in (workplace / "plots.html").read_text()


def test_failed_cells_are_said_at_the_end_with_an_exit_code(cli, path, workplace):
    broken = workplace / "broken.toml"
    broken.write_text(
        path.read_text() + '\n[axes.model.there]\nbackbone.layers = 1\n[axes.model.gone]\nbackbone.model = "./gone"\n'
    )
    done = cli("study", broken, "--out", workplace / "broken", "--samples", 50)
    assert done.exit_code == 4
    assert "4 of 8 cells failed; the same command tries them again:" in done.stderr
    assert "fedavg" in done.stdout
    assert "Traceback" not in done.stderr


def test_mistakes_in_a_study(cli, workplace):
    done = cli("study", workplace / "none.toml")
    assert done.exit_code == 2
    assert "does not exist" in done.stderr
