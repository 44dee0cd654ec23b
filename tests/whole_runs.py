"""Small files and local models for whole runs, and what makes two runs equal. Also used outside of pytest."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file

import tiny
from pplr.config import Config, parse_config
from pplr.runner import run


def write_files(folder: Path) -> None:
    """Write a data set as CSV files, and a tiny encoder and decoder as local model folders."""
    data = tiny.dataset(users=60, items=30)
    rows = [
        {"user": data.user_ids[u], "item": data.catalogue.ids[i], "time": 1000 + t, "silo": f"shop-{u % 3}"}
        for u, row in enumerate(data.items)
        for t, i in enumerate(row)
    ]
    pl.DataFrame(rows).write_csv(folder / "events.csv")
    genres = data.catalogue.attributes["genre"]
    pl.DataFrame({"id": data.catalogue.ids, "title": data.catalogue.titles, "genre": genres}).write_csv(
        folder / "items.csv"
    )
    for name, model, tokenizer in (
        ("bert", tiny.encoder("bert"), tiny.word_tokenizer()),
        ("llama", tiny.decoder("llama"), tiny.byte_tokenizer()),
    ):
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)


def configuration(files: Path, kind: str = "sequence", **sections) -> Config:
    own = {
        "sequence": {"kind": "sequence", "model": str(files / "bert"), "width": 16, "positions": 8},
        "encoder": {"kind": "encoder", "model": str(files / "bert"), "history_tokens": 64},
        "generative": {"kind": "generative", "model": str(files / "llama"), "title_tokens": 30, "prompt_tokens": 500},
    }
    values = {
        "name": "tiny",
        "threads": 1,
        "data": {"events": "events.csv", "items": "items.csv", "columns": {"silo": "silo"}},
        "clients": {"kind": "column"},
        "backbone": own[kind],
        "federation": {"rounds": 3},
        "training": {"epochs": 1, "batch_tokens": 600},
        **sections,
    }
    return parse_config(values, files)


def other_test_items(files: Path, target: Path) -> dict[str, Path]:
    """Write the same events with another item in each user's last one, and return where."""
    events = pl.read_csv(files / "events.csv", schema_overrides={"item": pl.String})
    last = events.with_row_index().group_by("user", maintain_order=True).agg(pl.col("index").last())["index"]
    items = events["item"].to_list()
    for row in last.to_list():
        items[row] = f"i{(int(items[row][1:]) + 11) % 30}"
    target.mkdir()
    events.with_columns(pl.Series("item", items)).write_csv(target / "events.csv")
    shutil.copy(files / "items.csv", target)
    return {"events": target / "events.csv", "items": target / "items.csv"}


def copied(files: Path, folder: Path) -> Path:
    """The data set and the models once more, to be changed."""
    shutil.copytree(files, folder)
    return folder


def change_events(folder: Path, place: int, item: str) -> None:
    """Give the event at `place` (from the end, of the first user, where negative) another item."""
    events = pl.read_csv(folder / "events.csv", schema_overrides={"item": pl.String})
    rows = events.with_row_index().filter(pl.col("user") == events["user"][0])["index"].to_list()
    items = events["item"].to_list()
    items[rows[place]] = item if items[rows[place]] != item else "i0"
    events.with_columns(pl.Series("item", items)).write_csv(folder / "events.csv")


def assert_same_rows(one: Path, other: Path) -> None:
    rows, expected = load_file(one / "rows.safetensors"), load_file(other / "rows.safetensors")
    assert rows.keys() == expected.keys()
    for name in rows:
        assert torch.equal(rows[name], expected[name]), name


def assert_same_result(one: Path, other: Path) -> None:
    assert_same_rows(one, other)
    ours, theirs = (json.loads((folder / "metrics.json").read_text()) for folder in (one, other))
    for key in ("overall", "clients", "balance", "model_alone", "baselines", "stopped"):
        assert ours[key] == theirs[key]
    for key in ("mixing", "score", "details"):
        assert [r[key] for r in ours["rounds"]] == [r[key] for r in theirs["rounds"]]


def numbers(value: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """Yield the numbers in a nest, but not how long something took, and not what a silo does not tell."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key not in ("seconds", "fusion"):
                yield from numbers(inner, f"{path}.{key}")
    elif isinstance(value, int | float):
        yield path, value


def run_interrupted(config: Config, folder: Path, event: str = "round_started") -> None:
    """Begin a run, and break it off at the first event of that name in round 2."""

    class Stop(Exception):
        pass

    def stop(seen):
        if seen.name == event and seen.round == 2:
            raise Stop

    with pytest.raises(Stop):
        run(config, folder, observer=stop)


def assert_numbers_agree(one: Path, other: Path, rel: float = 1e-5) -> None:
    """Two runs over the same model, cut or not, have the same metrics and losses."""
    found, expected = (json.loads((folder / "metrics.json").read_text()) for folder in (one, other))
    for key in ("overall", "balance", "clients", "model_alone", "stopped"):
        assert dict(numbers(found[key])) == pytest.approx(dict(numbers(expected[key])), rel=rel, abs=1e-6, nan_ok=True)
    for ours, theirs in zip(found["rounds"], expected["rounds"], strict=True):
        assert ours["score"] == pytest.approx(theirs["score"], rel=rel)
        assert np.array(ours["mixing"]) == pytest.approx(np.array(theirs["mixing"]), rel=rel, abs=1e-6)
        for client, figures in theirs["clients"].items():
            expected_loss = figures["training_loss"]
            wanted = expected_loss if expected_loss is None else pytest.approx(expected_loss, rel=rel)
            assert ours["clients"][client]["training_loss"] == wanted
