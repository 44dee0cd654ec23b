"""`pplr audit`: a report to read, and one for programs."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from pplr.audit.hidden_states import Estimate, Figures, Outcome
from pplr.audit.run import AuditSettings, HiddenStatesReport
from pplr.cli.audit import conclusion


@pytest.fixture
def words(workplace):
    return [
        *("audit", "hidden-states", "--model", workplace / "model", "--k", "0", "--data", workplace / "shop.toml"),
        *("--histories", "8", "--public", "20"),
    ]


@pytest.mark.filterwarnings("error")
def test_it_writes_json(cli, words, tmp_path):
    done = cli(*words, "--json", "--output", tmp_path / "audit.json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report == json.loads((tmp_path / "audit.json").read_text())
    assert report["histories"] == 8
    figures = {f["name"]: f for f in report["figures"]}
    assert figures[report["best"]]["tokens"]["value"] > figures["popularity"]["tokens"]["value"]
    assert "learns from" in done.stderr


def test_it_shows_what_was_read_beside_what_was_true(cli, words):
    done = cli(*words, "--quiet")
    assert done.exit_code == 0, done.output
    assert done.stdout.count("true") == 3
    assert "popularity" in done.stdout
    assert "Whoever holds the trunk behind k = 0 layers" in done.stdout
    assert done.stderr == ""


def test_mistakes_are_sentences(cli, words):
    for more, sentence, code in (
        (["--k", "1"], "--k 1 cannot be", 2),
        (["--histories", "39"], "Set --histories to", 3),
        (["--model", "minilmm"], "Did you mean 'minilm'?", 4),
        (["--data", "nowhere.toml"], "nowhere.toml does not exist", 2),
        (["--run", "runs/x"], "--run and --client belong together", 2),
        (["--run", "runs/x", "--client", "a"], "Leave --model and --data out", 2),
    ):
        done = cli(*words, *more)
        assert done.exit_code == code
        assert sentence in " ".join(done.stderr.split())


def test_the_conclusion_says_what_was_found():
    def figures(name, titles):
        return Figures(name, False, *([Estimate(titles, 0.01)] * 3))

    def said(best, popular):
        outcome = Outcome([replace(figures("popularity", popular), catalogue=True), figures("inverter", best)], [])
        return conclusion(HiddenStatesReport("m", 4, None, AuditSettings(2), 1, 1, outcome))

    assert "hide nothing" in said(0.95, 0.1)
    assert "A part of the texts" in said(0.5, 0.1)
    assert "no proof" in said(0.12, 0.1)
    assert "reads 95.0% of the titles" in said(0.95, 0.1)
