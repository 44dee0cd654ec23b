"""Catalogues are not encoded again for adapters that somebody has just asked about, and no number depends on it."""

from __future__ import annotations

import weakref
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
from pplr.models.sequence import SequenceBackbone
from pplr.training import Place, TrainingSettings, train_locally
from whole_runs import assert_numbers_agree, configuration


@pytest.fixture
def backbone() -> EncoderBackbone:
    settings = EncoderSettings(history_tokens=64)
    return EncoderBackbone(settings, tiny.dataset().catalogue, tiny.encoder("bert"), tiny.word_tokenizer(), tiny.CPU)


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch):
    """What was really encoded, by any backbone; at the end nobody may have changed it."""
    made: list[Tensor] = []
    copies: list[Tensor] = []
    for kind in (EncoderBackbone, SequenceBackbone):

        def counted(self: Any, parameters: Any, encode: Any = kind.encode_catalogue) -> Tensor | None:
            vectors = encode(self, parameters)
            assert vectors is not None and not vectors.requires_grad and not vectors.is_inference()
            made.append(vectors)
            copies.append(vectors.clone())
            return vectors

        monkeypatch.setattr(kind, "encode_catalogue", counted)
    yield made
    assert all(torch.equal(vectors, copy) for vectors, copy in zip(made, copies, strict=True))


def _views(backbone: EncoderBackbone, change: float = 0.0, of: str | None = None) -> dict[str, Tensor]:
    """An initial row, with one number of a parameter changed."""
    views = dict(backbone.layout.views(backbone.layout.initial_row(1)))
    name = of or next(name for name in views if name != "bias")
    views[name].view(-1)[-1] += change
    return views


def test_the_same_adapters_are_encoded_once_whoever_asks_and_whatever_the_bias(backbone, encoded) -> None:
    vectors = ItemVectors(backbone)
    first = vectors.encoded(_views(backbone), "ada")
    assert vectors.encoded(_views(backbone), "bob") is first
    assert vectors.encoded(_views(backbone, 2.0, of="bias"), "ada") is first
    assert len(encoded) == 1
    for name in (name for name in _views(backbone) if name != "bias"):
        changed = _views(backbone, 0.5, of=name)
        expected = backbone.encode_catalogue(changed)
        assert vectors.encoded(changed, "eve") is not first
        assert torch.equal(vectors.encoded(changed, "eve"), expected)


def test_a_holders_newest_question_replaces_its_last_one(backbone, encoded) -> None:
    vectors = ItemVectors(backbone)
    for change in (0.0, 1.0, 1.0):
        vectors.encoded(_views(backbone, change), "ada")
    assert len(encoded) == 2
    vectors.encoded(_views(backbone), "ada")
    assert len(encoded) == 3


def test_no_more_is_kept_than_may_be_and_what_is_shared_counts_once(backbone, encoded) -> None:
    one = backbone.encode_catalogue(_views(backbone)).nbytes
    vectors = ItemVectors(backbone, largest_bytes=2 * one)
    for holder in ("ada", "bob", "eve"):
        vectors.encoded(_views(backbone), holder)
    kept, before = vectors.encoded(_views(backbone, 1.0), "dan"), len(encoded)
    assert vectors.encoded(_views(backbone, 1.0), "dan") is kept
    assert len(encoded) == before
    for _ in range(2):
        vectors.encoded(_views(backbone, 2.0), "joe")
    assert len(encoded) == before + 2, "a third one has no room"


@pytest.mark.parametrize(("progress", "expected"), [(0.0, 3), (0.9, 1)], ids=["first stage", "second stage"])
def test_a_holder_that_trains_for_several_epochs_lets_go_of_former_vectors_before_new_ones_are_made(
    backbone, monkeypatch, progress: float, expected: int
) -> None:
    made: list[weakref.ref[Tensor]] = []
    encode = backbone.encode_catalogue

    def alone(parameters: Any) -> Tensor:
        assert not [each for each in made if each() is not None]
        found = encode(parameters)
        made.append(weakref.ref(found))
        return found

    monkeypatch.setattr(backbone, "encode_catalogue", alone)
    vectors = ItemVectors(backbone)
    settings = TrainingSettings(epochs=3, learning_rate=0.02, batch_tokens=400)
    train_locally(
        backbone,
        backbone.layout.initial_row(1),
        backbone.examples(tiny.dataset().training()),
        settings,
        Place(1, "ada", 1, progress),
        encode=partial(vectors.encoded, holder="ada"),
    )
    assert len(made) == expected


BACKBONES = {
    "encoder": {},
    "sequence": {"adapters": True, "live_items": 4},
    "sequence once a round": {"adapters": True, "adapter_updates": "round"},
}


@pytest.mark.parametrize(
    ("kind", "strategy", "rows", "questions"),
    [
        ("encoder", "fedavg", 1, 6),
        ("encoder", "pplr", 3, 6),
        ("encoder", "local", 3, 6),
        ("encoder", "ditto", 4, 9),
        ("encoder", "fedper", 3, 6),
        ("encoder", "ffa", 1, 6),
        ("sequence", "pplr", 3, 6),
        ("sequence once a round", "fedavg", 1, 6),
    ],
)
def test_a_run_encodes_each_row_once_and_ends_as_without_memory(
    files: Path, tmp_path: Path, monkeypatch, encoded, kind: str, strategy: str, rows: int, questions: int
) -> None:
    name = kind.split(maxsplit=1)[0]
    backbone = configuration(files, name).backbone.model_dump(exclude_unset=True) | BACKBONES[kind]
    config = configuration(
        files,
        name,
        backbone=backbone,
        strategy={"kind": strategy},
        federation={"rounds": 2},
        training={"epochs": 1, "batch_tokens": 600, "max_examples": 30, "learning_rate": 1e-2},
        evaluation={"max_users": 5},
    )
    run(config, tmp_path / "with")
    remembered = len(encoded)
    assert remembered <= 1 + 2 * rows + 3, "the first one, new ones of two rounds, and best ones of an earlier round"
    monkeypatch.setattr(wiring, "ItemVectors", partial(ItemVectors, largest_bytes=0))
    run(config, tmp_path / "without")
    assert len(encoded) - remembered == 2 * questions + 6, "of two rounds, and to test and recommend with three clients"
    assert_numbers_agree(tmp_path / "with", tmp_path / "without", rel=0)
    assert (tmp_path / "with/rows.safetensors").read_bytes() == (tmp_path / "without/rows.safetensors").read_bytes()
