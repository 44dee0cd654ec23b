"""Reading run folders: every way in which one can be wrong is a sentence that says what to do."""

from __future__ import annotations

import json

import polars as pl
import pytest

from pplr.errors import RunError
from pplr.report.folder import read_per_user, read_run


def test_a_finished_run_is_read(build_run):
    run = read_run(build_run(clients=3, examples=2))
    assert list(run.metrics.clients) == ["client-0", "client-1", "client-2"]
    assert len(run.examples) == 6
    assert run.examples[0].recommended[0].rank == 1
    assert 'kind = "pplr"' in run.configuration


def test_examples_and_configuration_may_be_missing(build_run):
    folder = build_run()
    (folder / "examples.json").unlink()
    (folder / "config.toml").unlink()
    run = read_run(folder)
    assert run.examples == ()
    assert run.configuration is None


def test_no_such_folder(tmp_path):
    with pytest.raises(RunError, match=r"There is no run folder .*nowhere\. Give"):
        read_run(tmp_path / "nowhere")


def test_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(RunError, match="is not a run folder"):
        read_run(tmp_path)


def test_an_unfinished_run_says_how_to_finish_it(build_run):
    folder = build_run()
    (folder / "metrics.json").unlink()
    with pytest.raises(RunError, match=r"is not finished.*pplr run .*config\.toml --out .* --resume"):
        read_run(folder)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"schema": 1,', "is damaged: it is not valid JSON in line 1"),
        ("[]", "has the schema version None"),
        ('{"schema": 7}', r"has the schema version 7; this version of pplr reads 1"),
        ('{"schema": 1}', r"does not follow schema 1: name: Field required\. \(\d+ more"),
    ],
)
def test_damaged_metrics(build_run, text, words):
    folder = build_run()
    (folder / "metrics.json").write_text(text)
    with pytest.raises(RunError, match=words) as caught:
        read_run(folder)
    assert "--resume" in str(caught.value)


def test_bytes_that_are_no_text(build_run):
    folder = build_run()
    (folder / "metrics.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RunError, match="cannot be read"):
        read_run(folder)


def test_damaged_examples(build_run):
    folder = build_run()
    (folder / "examples.json").write_text(json.dumps([{"client": "a"}]))
    with pytest.raises(RunError, match=r"examples\.json is damaged: 0\.user"):
        read_run(folder)


def test_per_user_figures(build_run):
    table = read_per_user(build_run(users=60))
    assert table.columns[:2] == ["user", "client"]
    assert table.schema["ndcg@10"] == pl.Float64
    assert len(table) == 60


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"user": ["a"], "ndcg@10": [0.5]}, "lacks client"),
        ({"user": ["a"], "client": ["c"]}, "lacks metrics"),
        ({"user": ["a", "a"], "client": ["c", "c"], "ndcg@10": [0.5, 0.1]}, "lists the user 'a' twice"),
    ],
)
def test_per_user_figures_that_cannot_be_used(build_run, table, words):
    folder = build_run()
    pl.DataFrame(table).write_parquet(folder / "per_user.parquet")
    with pytest.raises(RunError, match=words):
        read_per_user(folder)


def test_per_user_file_missing_or_damaged(build_run):
    folder = build_run()
    (folder / "per_user.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(RunError, match="is damaged"):
        read_per_user(folder)
    (folder / "per_user.parquet").unlink()
    with pytest.raises(RunError, match=r"has no per_user\.parquet"):
        read_per_user(folder)
