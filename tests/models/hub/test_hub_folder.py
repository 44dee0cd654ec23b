import json

import numpy as np
import pytest
from hub_toys import write_model
from safetensors.numpy import save_file

from pplr.errors import ModelError, ModelUnavailable
from pplr.models.hub import Kind, resolve
from pplr.models.hub.digest import weights_digest
from pplr.models.hub.folder import model_files, model_kind


@pytest.fixture
def folder(tmp_path, empty_cache):
    return write_model(tmp_path / "mine")


def test_a_local_folder_is_used_where_it_is(folder, monkeypatch, empty_cache):
    files = resolve(str(folder))
    assert (files.path, files.kind, files.manifest) == (folder, Kind.ENCODER, None)
    assert files.digest == weights_digest([folder / "model.safetensors"])
    monkeypatch.chdir(folder.parent)
    assert resolve("mine").path == resolve("./mine").path == folder
    assert not empty_cache.exists()


def test_shards_are_found_and_missing_ones_named(folder):
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-1.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    save_file({"a": np.zeros(2)}, folder / "model-1.safetensors")
    with pytest.raises(ModelError, match=r"lacks model-2\.safetensors, which model\.safetensors\.index\.json names"):
        resolve(str(folder))
    save_file({"b": np.zeros(2)}, folder / "model-2.safetensors")
    assert [path.name for path in model_files(folder)] == ["model-1.safetensors", "model-2.safetensors"]
    (folder / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(ModelError, match="holds a list instead of an object"):
        resolve(str(folder))


@pytest.mark.parametrize("pickle", ["pytorch_model.bin", "model.pt"])
def test_pickles_are_refused(folder, pickle):
    (folder / pickle).write_bytes(b"")
    assert resolve(str(folder)).kind is Kind.ENCODER
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=rf"as pickles \({pickle}\).*can run any code.*save_pretrained"):
        resolve(str(folder))


@pytest.mark.parametrize(
    ("file", "sentence"),
    [("config.json", "has no config.json"), ("tokenizer.json", "no tokenizer"), ("model.safetensors", "no weights")],
)
def test_an_incomplete_folder_is_refused(folder, file, sentence):
    (folder / file).unlink()
    with pytest.raises(ModelError, match=sentence):
        resolve(str(folder))


def test_an_adapter_beside_the_weights_is_refused(folder):
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="Merge it"):
        resolve(str(folder))


def test_a_file_and_a_missing_folder_are_refused(folder):
    with pytest.raises(ModelError, match=r"is a file\. Name the folder"):
        resolve(str(folder / "config.json"))
    with pytest.raises(ModelUnavailable, match="There is no folder"):
        resolve(str(folder / "nothing"))


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        ({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}, Kind.DECODER),
        ({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}, Kind.DECODER),
        ({"model_type": "qwen3", "architectures": ["Qwen3Model"]}, Kind.DECODER),
        ({"model_type": "gemma3_text"}, Kind.DECODER),
        ({"model_type": "bert", "architectures": ["BertForMaskedLM"]}, Kind.ENCODER),
        ({"model_type": "mpnet", "architectures": ["MPNetModel"]}, Kind.ENCODER),
        ({"model_type": "longformer"}, Kind.ENCODER),
        ({"model_type": "modernbert", "architectures": ["ModernBertModel"]}, Kind.ENCODER),
    ],
)
def test_the_kind_is_read_from_the_configuration(tmp_path, config, kind):
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert model_kind(tmp_path) is kind


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ('{"model_type": "t5", "is_encoder_decoder": true}', "encoder-decoder"),
        ('{"model_type": "resnet"}', "type 'resnet'"),
        ("{", "not valid JSON"),
    ],
)
def test_other_kinds_are_refused(tmp_path, config, sentence):
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(ModelError, match=sentence):
        model_kind(tmp_path)
