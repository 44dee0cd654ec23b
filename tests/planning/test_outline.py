"""Counts without weights are those of the modules that a client and the server really load."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from cut_models import DECODERS, ENCODERS, LAYERS, saved, weights
from pplr.errors import ConfigError, ModelError
from pplr.models.hub import Kind
from pplr.models.hub.parts import load_parts
from pplr.models.hub.resolver import ModelFiles
from pplr.models.lora import AdapterSettings, Lora
from pplr.models.parts import Cut, Part, Which, load_part
from pplr.planning import outline

RANK = AdapterSettings(rank=2)
EVERYWHERE = {
    "llama": ("q_proj", "down_proj", "lm_head"),
    "bert": ("query", "dense"),
}


def _kind(name: str) -> Kind:
    return Kind.DECODER if name in DECODERS else Kind.ENCODER


def _alone(model: Path, folder: Path) -> Path:
    """The configuration by itself, as of a model whose weights are not here."""
    folder.mkdir()
    shutil.copy(model / "config.json", folder)
    return folder


def _loaded(folder: Path, cut: Cut, kind: Kind) -> tuple[list[Part], Part]:
    """What a client loads, a tied head in the memory of the embedding, and what the server loads."""
    files = weights(folder)
    head = kind is Kind.DECODER
    bottom = load_part(folder, files, Which.BOTTOM, cut, head=head)
    embedding = bottom.base.get_input_embeddings().weight.data if head else None
    top = load_part(folder, files, Which.TOP, cut, head=head, embedding=embedding)
    return [bottom, top], load_part(folder, files, Which.TRUNK, cut, head=head)


def _count(parts: list[Part]) -> int:
    unique = {p.data_ptr(): p.numel() for part in parts for p in part.module.parameters()}
    return sum(unique.values())


@pytest.mark.parametrize("name", [*DECODERS, *ENCODERS])
def test_weights_and_adapters_are_counted_as_they_are_loaded(tmp_path: Path, name: str) -> None:
    saved(name, tmp_path / "model")
    kind = _kind(name)
    found = outline(_alone(tmp_path / "model", tmp_path / "bare"), kind, RANK)
    assert len(found.layers) == LAYERS
    for top in (1, 2):
        for bottom in range(LAYERS - top):
            cut = Cut(bottom, top)
            client, server = _loaded(tmp_path / "model", cut, kind)
            assert found.client_parameters(cut) == _count(client)
            assert found.server_parameters(cut) == _count([server])
            ours, theirs = ([layer.adapters for layer in layers] for layers in (
                found.client_layers(cut), found.part(cut, Which.TRUNK)
            ))  # fmt: skip
            assert sum(ours) == sum(spec.size for spec in Lora(client, RANK).specs)
            assert sum(theirs) == sum(spec.size for spec in Lora([server], RANK).specs)


@pytest.mark.parametrize("name", EVERYWHERE)
def test_adapters_outside_of_the_layers_are_the_clients(tmp_path: Path, name: str) -> None:
    saved(name, tmp_path)
    settings = RANK.model_copy(update={"targets": EVERYWHERE[name]})
    found = outline(tmp_path, _kind(name), settings)
    client, _ = _loaded(tmp_path, Cut(1, 2), _kind(name))
    size = sum(spec.size for spec in Lora(client, settings).specs)
    assert sum(layer.adapters for layer in found.client_layers(Cut(1, 2))) + found.outside == size


@pytest.mark.parametrize(("name", "tied"), [("llama", True), ("llama-untied", False), ("bert", False)])
def test_the_whole_model_counts_a_tied_head_once(tmp_path: Path, name: str, tied: bool) -> None:
    model = saved(name, tmp_path)
    found = outline(tmp_path, _kind(name), RANK)
    assert found.tied is tied
    extra = sum(p.numel() for p in model.pooler.parameters()) if name == "bert" else 0
    assert found.parameters == sum(p.numel() for p in model.parameters()) - extra


def test_a_head_that_is_stored_is_loaded_and_counted(tmp_path: Path) -> None:
    saved("llama", tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, path, {"format": "pt"})
    (tmp_path / "tokenizer.json").write_text("{}")
    found = outline(tmp_path, Kind.DECODER, RANK)
    parts = load_parts(ModelFiles("m", tmp_path, Kind.DECODER, ""), Cut(1), Which.BOTTOM, Which.TOP)
    assert not found.tied
    assert found.client_parameters(Cut(1)) == _count(list(parts))


def test_models_that_cannot_be_planned_are_named(tmp_path: Path) -> None:
    saved("llama", tmp_path)
    with pytest.raises(ModelError, match="no linear map named 'q_prj'"):
        outline(tmp_path, Kind.DECODER, RANK.model_copy(update={"targets": ("q_prj",)}))
    with pytest.raises(ConfigError, match="leave no layer"):
        outline(tmp_path, Kind.DECODER, RANK).part(Cut(4, 1), Which.TRUNK)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "gpt2"}))
    with pytest.raises(ModelError, match="type 'gpt2' cannot be split"):
        outline(tmp_path, Kind.DECODER, RANK)
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "no-such-type"}))
    with pytest.raises(ModelError, match="cannot be used"):
        outline(tmp_path, Kind.DECODER, RANK)
