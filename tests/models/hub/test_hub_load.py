import json
import shutil
import socket

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BertModel

from pplr.errors import ModelError
from pplr.models.hub import load_base, load_decoder, load_encoder, resolve


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_args, **_kwargs):
        raise AssertionError("loading asked the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def copy(tmp_path, decoder_folder):
    return shutil.copytree(decoder_folder, tmp_path / "copy")


def test_a_decoder_is_frozen_and_silent(decoder_folder, capfd):
    model, tokenizer = load_decoder(resolve(str(decoder_folder)))
    assert capfd.readouterr() == ("", "")
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == 2
    assert tokenizer(["ab", "c"], padding=True)["attention_mask"] == [[1, 1], [1, 0]]
    original = AutoModelForCausalLM.from_pretrained(decoder_folder)
    ids = torch.arange(3, 13)[None]
    torch.testing.assert_close(model(ids).logits, original(ids).logits)


def test_the_caller_chooses_the_type(decoder_folder):
    model, _ = load_decoder(resolve(str(decoder_folder)), dtype=torch.bfloat16, device="cpu")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_an_encoder_loads_without_pooler_and_without_fixed_padding(encoder_folder, capfd):
    model, tokenizer = load_encoder(resolve(str(encoder_folder)))
    assert capfd.readouterr() == ("", "")
    assert isinstance(model, BertModel)
    assert len(tokenizer.backend_tokenizer.encode("red green").ids) == 2
    assert len(tokenizer("red green")["input_ids"]) == 2
    assert len(tokenizer("red " * 200)["input_ids"]) == 200
    assert model(**tokenizer(["red", "red blue"], padding=True, return_tensors="pt")).last_hidden_state.shape == (
        2,
        2,
        32,
    )


def test_either_kind_gives_hidden_states(decoder_folder, encoder_folder):
    for folder in (decoder_folder, encoder_folder):
        model, tokenizer = load_base(resolve(str(folder)))
        states = model(**tokenizer("red", return_tensors="pt")).last_hidden_state
        assert states.shape[-1] == 32


def test_the_wrong_kind_names_what_fits(decoder_folder, encoder_folder):
    with pytest.raises(ModelError, match=r"is a decoder.*fits the backbones 'sequence' and 'generative'.*an encoder"):
        load_encoder(resolve(str(decoder_folder)))
    with pytest.raises(ModelError, match=r"is an encoder.*fits the backbones 'sequence' and 'encoder'.*a decoder"):
        load_decoder(resolve(str(encoder_folder)))


def test_missing_weights_are_not_drawn_at_random(copy):
    weights = load_file(copy / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lack model\.layers\.1\.mlp\.up_proj\.weight"):
        load_decoder(resolve(str(copy)))


def test_weights_of_another_shape_are_refused(copy):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"intermediate_size": 48}))
    with pytest.raises(ModelError, match=r"could not be loaded|have another shape"):
        load_decoder(resolve(str(copy)))


def test_code_in_the_folder_is_never_run(copy):
    marker = copy / "ran"
    config = json.loads((copy / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"}}
    (copy / "config.json").write_text(json.dumps(config))
    (copy / "own.py").write_text(f"open({str(marker)!r}, 'w')\n")
    with pytest.raises(ModelError, match=r"could not be loaded"):
        load_decoder(resolve(str(copy)))
    assert not marker.exists()


def test_a_tokenizer_with_nothing_to_pad_with(copy):
    config = json.loads((copy / "tokenizer_config.json").read_text())
    del config["eos_token"]
    (copy / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="no token to pad with"):
        load_decoder(resolve(str(copy)))
