"""A tiny real run for the command line to work on: random BERT, 40 users, two clients, one round."""

from __future__ import annotations

import csv
import warnings
from pathlib import Path

import pytest
from rich.console import Console

import tiny
from pplr.data.dataset import Dataset

with warnings.catch_warnings():
    # typer 0.20 imports names that click 8.5 calls deprecated
    warnings.simplefilter("ignore", DeprecationWarning)
    from typer.testing import CliRunner

    from pplr.cli.app import app


@pytest.fixture
def cli(monkeypatch):
    """Run a command line in this process, at 100 columns; returns exit code, stdout and stderr."""
    monkeypatch.setenv("COLUMNS", "100")
    runner = CliRunner()

    def call(*words: str | Path):
        return runner.invoke(app, [str(word) for word in words], prog_name="pplr")

    return call


@pytest.fixture
def screen():
    """A console of 80 columns and 24 rows that keeps what it is given."""
    return Console(width=80, height=24, record=True, force_terminal=True, color_system=None, legacy_windows=False)


def write_data(folder: Path, data: Dataset) -> None:
    with (folder / "events.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["user", "item", "time"])
        for user, items in zip(data.user_ids, data.items, strict=True):
            writer.writerows((user, f"i{item}", 1_400_000_000 + step) for step, item in enumerate(items.tolist()))
    with (folder / "items.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "title"])
        for id_, title in zip(data.catalogue.ids, data.catalogue.titles, strict=True):
            writer.writerow([id_, f"{title} {id_[1:]}"])


CONFIGURATION = """
name = "tiny"
threads = 1
device = "cpu"
[data]
events = "events.csv"
items = "items.csv"
[clients]
kind = "random"
count = 2
[backbone]
kind = "sequence"
model = "model"
width = 8
layers = 1
heads = 2
positions = 6
[training]
epochs = 1
[federation]
rounds = 1
[evaluation]
ks = [5, 10]
"""


@pytest.fixture(scope="session")
def workplace(tmp_path_factory):
    """A folder with data, a model and a configuration, shop.toml."""
    folder = tmp_path_factory.mktemp("shop")
    write_data(folder, tiny.dataset())
    tiny.encoder("bert").save_pretrained(folder / "model")
    tiny.word_tokenizer().save_pretrained(folder / "model")
    text = CONFIGURATION.replace('"model"', f'"{folder / "model"}"')
    (folder / "shop.toml").write_text(text)
    return folder


@pytest.fixture(scope="session")
def finished(workplace):
    """The folder of a finished run, its stdout and its stderr."""
    out = workplace / "first"
    words = ["run", str(workplace / "shop.toml"), "--out", str(out)]
    # a parallel test worker inherits the width of whoever's terminal it was: say which
    done = CliRunner(env={"COLUMNS": "160"}).invoke(app, words, prog_name="pplr")
    assert done.exit_code == 0, done.output
    return out, done.stdout, done.stderr
