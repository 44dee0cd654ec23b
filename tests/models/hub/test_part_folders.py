"""A folder with one party's part of a model has that party's tensors and no others, and is known as the whole model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import tiny
from cut_models import DECODERS, ENCODERS, LAYERS, saved
from pplr.errors import ConfigError, ModelError, StorageError
from pplr.models.hub import Kind, ModelFiles, load_base, load_decoder, load_tokenizer, resolve
from pplr.models.hub.part_folder import write_part
from pplr.models.hub.part_record import PartRecord, Party
from pplr.models.hub.parts import load_parts
from pplr.models.parts import Cut, Part, Which

CLIENT, SERVER = (Which.BOTTOM, Which.TOP), (Which.TRUNK,)


def whole(name: str, folder: Path, **options: object) -> ModelFiles:
    """A model of random weights as a local folder, with a tokenizer and a licence."""
    saved(name, folder / name, **options)
    (tiny.byte_tokenizer() if name in DECODERS else tiny.word_tokenizer()).save_pretrained(folder / name)
    (folder / name / "LICENSE").write_text("Do what you like.")
    return resolve(str(folder / name))


def parted(files: ModelFiles, cut: Cut, folder: Path) -> tuple[ModelFiles, ModelFiles]:
    """The client's and the server's folder, resolved."""
    for party in Party:
        write_part(files, party, cut, folder / party)
    return resolve(str(folder / "client")), resolve(str(folder / "server"))


def weights_of(part: Part) -> dict[str, torch.Tensor]:
    return dict(part.module.state_dict())


@pytest.mark.parametrize("name", ["llama", "llama-untied", "gemma3", "bert", "mpnet", "longformer", "distilbert"])
@pytest.mark.parametrize("cut", [Cut(0, 1), Cut(2, 1), Cut(1, 3)], ids=str)
def test_parts_load_from_their_folders_as_from_the_whole_model(tmp_path: Path, name: str, cut: Cut) -> None:
    files = whole(name, tmp_path)
    for there, wanted in zip(parted(files, cut, tmp_path / "parts"), (CLIENT, SERVER), strict=True):
        assert (there.digest, there.kind) == (files.digest, files.kind)
        for one, expected in zip(load_parts(there, cut, *wanted), load_parts(files, cut, *wanted), strict=True):
            assert one.layers == expected.layers
            ours, theirs = weights_of(one), weights_of(expected)
            assert ours.keys() == theirs.keys()
            assert all(torch.equal(ours[path], theirs[path]) for path in ours)


@pytest.mark.parametrize("name", [*DECODERS, *ENCODERS])
def test_a_layer_is_in_one_folder_and_vocabulary_in_the_clients(tmp_path: Path, name: str) -> None:
    files = whole(name, tmp_path)
    client, server = parted(files, Cut(1, 2), tmp_path / "parts")
    stored = [load_file(part.path / "model.safetensors") for part in (client, server)]
    assert stored[0].keys() & stored[1].keys() <= {"encoder.relative_attention_bias.weight"}  # of mpnet, for all layers
    everything = load_file(files.path / "model.safetensors")
    left = everything.keys() - stored[0].keys() - stored[1].keys()
    assert all("pooler" in tensor for tensor in left)  # no part needs it
    assert all(torch.equal(tensor, everything[key]) for part in stored for key, tensor in part.items())
    for key in stored[1]:
        assert not any(word in key for word in ("embed", "lm_head", "norm.weight")) or "layer" in key
    numbers = {int(word) for key in stored[1] for word in key.split(".") if word.isdigit() and "layer" in key}
    assert numbers - {0} == {1, 2}  # of 5; some modules of a layer are numbered from 0 themselves
    assert {path.name for path in server.path.iterdir()} == {
        "config.json", "LICENSE", "manifest.json", "model.safetensors",
    }  # fmt: skip
    assert (client.path / "tokenizer.json").read_bytes() == (files.path / "tokenizer.json").read_bytes()
    assert load_tokenizer(client)("a star").input_ids == load_tokenizer(files)("a star").input_ids


def test_a_folder_remembers_what_is_known_of_the_model(tmp_path: Path) -> None:
    files = whole("llama", tmp_path, max_shard_size="20KB")
    client, server = parted(files, Cut(2, 1), tmp_path / "parts")
    assert client.part == PartRecord(Party.CLIENT, 2, 1, LAYERS)
    assert server.part == PartRecord(Party.SERVER, 2, 1, LAYERS)
    assert client.kind is Kind.DECODER
    assert str(client.part) == "the client's part (embedding, layers 1 to 2 and layer 5 of 5, what comes behind)"
    assert str(server.part) == "the server's part (layers 3 to 4 of 5)"
    assert (
        str(PartRecord(Party.CLIENT, 0, 3, 5)) == "the client's part (embedding, layers 3 to 5 of 5, what comes behind)"
    )
    assert str(tmp_path) not in (client.path / "manifest.json").read_text()


def test_a_folder_with_more_of_the_clients_layers_serves_a_smaller_cut(tmp_path: Path) -> None:
    files = whole("llama", tmp_path)
    client, server = parted(files, Cut(2, 2), tmp_path / "parts")
    assert [part.layers for part in load_parts(client, Cut(1, 1), *CLIENT)] == [range(1), range(4, 5)]
    with pytest.raises(
        ModelError,
        match=r"holds the client's part \(embedding, layers 1 to 2 and layers 4 to 5 of 5, what comes behind\), and layers "
        r"1 to 3 \(bottom\) and 5 to 5 \(top\) of 5 are asked for \(bottom = 3, top = 1\).*placement.bottom = 2 and "
        r"placement.top = 2; .*`pplr models part`",
    ):
        load_parts(client, Cut(3, 1), *CLIENT)
    with pytest.raises(ModelError, match=r"the server's part \(layer 3 of 5\), and layers 2 to 3 \(trunk\) of 5"):
        load_parts(server, Cut(1, 2), *SERVER)
    with pytest.raises(ModelError, match=r"the client's part .* layers 3 to 3 \(trunk\)"):
        load_parts(client, Cut(2, 2), *SERVER)


def test_what_needs_the_whole_model_says_so(tmp_path: Path) -> None:
    files = whole("llama", tmp_path)
    client, server = parted(files, Cut(2, 1), tmp_path / "parts")
    for load in (load_decoder, load_base):
        with pytest.raises(ModelError, match=r"the client's part .* only, and the whole model is needed here"):
            load(client)
    with pytest.raises(ModelError, match=r"the server's part .* has no tokenizer: texts stay with the client"):
        load_tokenizer(server)
    with pytest.raises(ModelError, match=r"the client's part .* only\. Name the whole model"):
        write_part(client, Party.SERVER, Cut(2, 1), tmp_path / "again")


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda path: (path / "model.safetensors").write_bytes(b"x"), "model.safetensors has 1 bytes instead of"),
        (lambda path: (path / "tokenizer.json").unlink(), "tokenizer.json is missing"),
        (lambda path: (path / "new.txt").write_text(""), "new.txt does not belong to it"),
    ],
)
def test_a_folder_is_verified_by_its_hashes(tmp_path: Path, spoil, sentence: str) -> None:
    client, _ = parted(whole("llama", tmp_path), Cut(2, 1), tmp_path / "parts")
    spoil(client.path)
    with pytest.raises(ModelError, match=rf"The part of a model in .* is damaged: {sentence}.*`pplr models part`"):
        resolve(str(client.path))


def test_a_changed_weight_is_found(tmp_path: Path) -> None:
    client, _ = parted(whole("llama", tmp_path), Cut(2, 1), tmp_path / "parts")
    path = client.path / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.safetensors has the SHA-256"):
        resolve(str(client.path))


@pytest.mark.parametrize("part", [{"party": "nobody", "bottom": 1, "top": 1, "layers": 5}, {"bottom": "2"}])
def test_a_manifest_that_makes_no_sense_is_refused(tmp_path: Path, part: dict[str, object]) -> None:
    client, _ = parted(whole("llama", tmp_path), Cut(2, 1), tmp_path / "parts")
    path = client.path / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"part": part}))
    with pytest.raises(ModelError, match="its manifest is damaged"):
        resolve(str(client.path))
    path.write_text("{")
    with pytest.raises(ModelError, match=r"manifest\.json is not valid JSON"):
        resolve(str(client.path))


def test_nothing_is_overwritten_and_nothing_left_by_a_mistake(tmp_path: Path) -> None:
    files = whole("llama", tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(StorageError, match="is not an empty folder"):
        write_part(files, Party.CLIENT, Cut(1), tmp_path / "mine")
    with pytest.raises(ConfigError, match="leave no layer for the server"):
        write_part(files, Party.CLIENT, Cut(4), tmp_path / "other")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["llama", "mine"]


def test_a_tokenizer_is_needed_beside_a_whole_model_only(tmp_path: Path) -> None:
    files = whole("llama", tmp_path)
    _, server = parted(files, Cut(2, 1), tmp_path / "parts")
    shutil.move(server.path / "manifest.json", tmp_path)
    with pytest.raises(ModelError, match="has no tokenizer"):
        resolve(str(server.path))
