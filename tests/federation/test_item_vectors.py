"""Catalogues are not encoded again for adapters that somebody has just asked about, and no number depends on it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import tiny
from pplr import run, wiring
from pplr.federation.item_vectors import ItemVectors
from pplr.models.encoder import EncoderBackbone, EncoderSettings
from whole_runs import assert_numbers_agree, configuration


@pytest.fixture
def backbone() -> EncoderBackbone:
    settings = EncoderSettings(history_tokens=64)
    return EncoderBackbone(settings, tiny.dataset().catalogue, tiny.encoder("bert"), tiny.word_tokenizer(), tiny.CPU)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """What was really encoded, by any encoder."""
    made: list[Tensor] = []
    encode = EncoderBackbone.encode_catalogue

    def counted(self: EncoderBackbone, parameters: Any) -> Tensor | None:
        vectors = encode(self, parameters)
        assert vectors is not None
        made.append(vectors)
        return vectors

    monkeypatch.setattr(EncoderBackbone, "encode_catalogue", counted)
    return made


def _views(backbone: EncoderBackbone, change: float = 0.0, of: str | None = None) -> dict[str, Tensor]:
    """An initial row, with one number of a parameter changed."""
    views = dict(backbone.layout.views(backbone.layout.initial_row(1)))
    name = of or next(name for name in views if name != "bias")
    views[name].view(-1)[-1] += change
    return views


def test_the_same_adapters_are_encoded_once_whoever_asks_and_whatever_the_bias(backbone, asked) -> None:
    vectors = ItemVectors(backbone)
    first = vectors.of("ada", _views(backbone))
    assert vectors.of("bob", _views(backbone)) is first
    assert vectors.of("ada", _views(backbone, 2.0, of="bias")) is first
    assert len(asked) == 1
    for name in (name for name in _views(backbone) if name != "bias"):
        changed = _views(backbone, 0.5, of=name)
        expected = backbone.encode_catalogue(changed)
        assert vectors.of("eve", changed) is not first
        assert torch.equal(vectors.of("eve", changed), expected)


def test_a_holders_newest_question_replaces_its_last_one(backbone, asked) -> None:
    vectors = ItemVectors(backbone)
    vectors.of("ada", _views(backbone))
    vectors.of("ada", _views(backbone, 1.0))
    vectors.of("ada", _views(backbone, 1.0))
    assert len(asked) == 2
    vectors.of("ada", _views(backbone))
    assert len(asked) == 3


def test_no_more_is_kept_than_may_be_and_what_is_shared_counts_once(backbone, asked) -> None:
    one = backbone.encode_catalogue(_views(backbone)).nbytes
    vectors = ItemVectors(backbone, limit=2 * one)
    for holder in ("ada", "bob", "eve"):
        vectors.of(holder, _views(backbone))
    vectors.of("dan", _views(backbone, 1.0))
    assert vectors.of("dan", _views(backbone, 1.0)) is asked[-1]
    before = len(asked)
    for _ in range(2):
        vectors.of("joe", _views(backbone, 2.0))
    assert len(asked) == before + 2, "a third one has no room"


@pytest.mark.parametrize(
    ("strategy", "rows", "questions"),
    [("fedavg", 1, 6), ("pplr", 3, 6), ("local", 3, 6), ("ditto", 4, 9)],
)
def test_a_run_encodes_each_row_once_and_ends_as_without_memory(
    files: Path, tmp_path: Path, monkeypatch, asked, strategy: str, rows: int, questions: int
) -> None:
    config = configuration(
        files,
        "encoder",
        strategy={"kind": strategy},
        federation={"rounds": 2},
        training={"epochs": 1, "batch_tokens": 600, "max_examples": 30, "learning_rate": 1e-2},
        evaluation={"max_users": 5},
    )
    run(config, tmp_path / "with")
    assert len(asked) <= 1 + 2 * rows + 3, "the first one, new ones of two rounds, and best ones of an earlier round"
    remembered = len(asked)
    monkeypatch.setattr(wiring, "ItemVectors", partial(ItemVectors, limit=0))
    run(config, tmp_path / "without")
    assert len(asked) - remembered == 2 * questions + 6, "of two rounds, and to test and recommend with three clients"
    assert_numbers_agree(tmp_path / "with", tmp_path / "without", rel=0)
    assert (tmp_path / "with/rows.safetensors").read_bytes() == (tmp_path / "without/rows.safetensors").read_bytes()
