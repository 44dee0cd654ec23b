from __future__ import annotations

import copy
import json
import warnings

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny
from pplr.errors import ModelError
from pplr.models.layout import Layout, ParameterSpec, zeros
from pplr.models.lora import AdapterSettings, Lora
from pplr.models.peft_format import export_adapter, import_adapter
from pplr.models.ranks import limit_rank_

IDS = torch.tensor([[5, 6, 7, 8, 9], [10, 11, 12, 13, 14]])
HEAD = [ParameterSpec("bias", (6,), zeros), ParameterSpec("mine", (2, 2), zeros, private=True)]


def adapted(model, *, rank=3, scale=5.0, targets=(), head=()):
    lora = Lora(model, AdapterSettings(rank=rank, scale=scale, dropout=0.0, targets=targets))
    layout = Layout([*lora.specs, *head])
    return lora, layout, torch.randn(layout.size, generator=torch.Generator().manual_seed(0)) * 0.3


@pytest.fixture
def exported(tmp_path):
    """A folder, and what is in it."""
    model = tiny.decoder("llama")
    lora, layout, row = adapted(model, head=HEAD)
    folder = tmp_path / "adapters" / "client-1"
    export_adapter(folder, layout, row, lora, base_model="tiny/llama", task_type="CAUSAL_LM")
    return folder, lora, layout, row


@pytest.mark.parametrize(
    ("kind", "targets", "scale"),
    [("llama", (), 5.0), ("gemma3", ("q_proj", "down_proj"), 2.5), ("bert", (), 16.0), ("mpnet", (), 16.0)],
)
def test_peft_loads_the_folder_with_equal_outputs(tmp_path, kind, targets, scale):
    decoder = kind in {"llama", "gemma3"}
    model = tiny.decoder(kind) if decoder else tiny.encoder(kind)
    untouched = copy.deepcopy(model)
    lora, layout, row = adapted(model, targets=targets, scale=scale, head=HEAD)
    task = "CAUSAL_LM" if decoder else "FEATURE_EXTRACTION"
    export_adapter(tmp_path / "a", layout, row, lora, base_model=f"tiny/{kind}", task_type=task)
    base = untouched(IDS)[0].clone()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        loaded = peft.PeftModel.from_pretrained(untouched, tmp_path / "a").eval()
    with lora.bound(layout.views(row)):
        ours = model(IDS)[0]
    assert (ours - base).abs().max() > 1e-2
    torch.testing.assert_close(ours, loaded(IDS)[0], rtol=1e-5, atol=1e-5)
    assert loaded.peft_config["default"].base_model_name_or_path == f"tiny/{kind}"
    assert loaded.peft_config["default"].r == 3


def test_a_client_of_a_lower_rank_has_a_smaller_folder_of_the_same_adapter(tmp_path):
    model = tiny.decoder("llama")
    untouched = copy.deepcopy(model)
    lora, layout, row = adapted(model, rank=4, scale=6.0, head=HEAD)
    limit_rank_(layout, row, 3)
    task = {"base_model": "tiny/llama", "task_type": "CAUSAL_LM"}
    export_adapter(tmp_path / "a", layout, row, lora, rank=3, **task)
    shapes = {tuple(part.shape) for part in load_file(tmp_path / "a" / "adapter_model.safetensors").values()}
    assert all(3 in shape for shape in shapes)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        loaded = peft.PeftModel.from_pretrained(untouched, tmp_path / "a").eval()
    assert loaded.peft_config["default"].r == 3
    with lora.bound(layout.views(row)):
        torch.testing.assert_close(model(IDS)[0], loaded(IDS)[0], rtol=1e-5, atol=1e-5)
    assert torch.equal(import_adapter(tmp_path / "a", layout, torch.ones(layout.size), lora), row)
    with pytest.raises(ValueError, match="fills more than 2 components"):
        export_adapter(tmp_path / "b", layout, row, lora, rank=2, **task)
    narrower = adapted(tiny.decoder("llama"), rank=2, scale=3.0, head=HEAD)[0]
    with pytest.raises(ModelError, match=r"has rank 3 and scale 4.5, this run rank 2 and scale 3"):
        import_adapter(tmp_path / "a", layout, row, narrower)


def test_a_folder_that_peft_wrote_comes_back(tmp_path, tiny_llama):
    config = peft.LoraConfig(r=3, lora_alpha=5, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        theirs = peft.get_peft_model(copy.deepcopy(tiny_llama), config).eval()
    theirs.save_pretrained(tmp_path)
    lora, layout, row = adapted(tiny_llama, head=HEAD)
    imported = import_adapter(tmp_path, layout, row, lora)
    with lora.bound(layout.views(imported)):
        torch.testing.assert_close(tiny_llama(IDS)[0], theirs(IDS)[0], rtol=1e-5, atol=1e-5)
    head = {spec.name for spec in HEAD}
    for name, part in layout.views(imported).items():
        assert torch.equal(part, layout.views(row)[name]) is (name in head)


def test_export_and_import_give_the_row_back(exported):
    folder, lora, layout, row = exported
    assert sorted(path.name for path in folder.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "head.safetensors",
    ]
    before = torch.zeros(layout.size)
    assert torch.equal(import_adapter(folder, layout, before, lora), row)
    assert torch.equal(import_adapter(folder, layout, before), row)
    assert not before.any(), "the row given is not changed"
    assert set(load_file(folder / "head.safetensors")) == {"bias", "mine"}


def test_a_head_alone_has_no_adapter_files(tmp_path):
    layout, row = Layout(HEAD), torch.arange(10.0)
    export_adapter(tmp_path / "a", layout, row, None, base_model="tiny", task_type="FEATURE_EXTRACTION")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["head.safetensors"]
    assert torch.equal(import_adapter(tmp_path / "a", layout, torch.zeros(10)), row)


def test_an_older_export_is_replaced_whole(exported):
    folder, lora, layout, row = exported
    (folder / "stale").write_text("")
    export_adapter(folder, layout, row + 1, lora, base_model="tiny/llama", task_type="CAUSAL_LM")
    assert not (folder / "stale").exists()
    assert torch.equal(import_adapter(folder, layout, row, lora), row + 1)


def test_another_rank_is_refused(exported):
    folder, _, _, _ = exported
    lora, layout, row = adapted(tiny.decoder("llama"), rank=4, head=HEAD)
    with pytest.raises(ModelError, match=r"rank 3 and scale 5, this run rank 4.*adapter\.rank = 3"):
        import_adapter(folder, layout, row, lora)
    with pytest.raises(ModelError, match=r"q_proj.lora_A of shape \[3, 16\], but this model needs \[4, 16\]"):
        import_adapter(folder, layout, row)


def test_another_scale_is_refused(exported):
    folder, _, _, _ = exported
    lora, layout, row = adapted(tiny.decoder("llama"), scale=6.0, head=HEAD)
    with pytest.raises(ModelError, match=r"scale 5, this run rank 3 and scale 6"):
        import_adapter(folder, layout, row, lora)


@pytest.mark.parametrize(
    ("targets", "says"),
    [(("q_proj", "v_proj", "k_proj"), "lacks .*k_proj"), (("q_proj",), "unknown .*v_proj")],
)
def test_other_targets_are_refused(exported, targets, says):
    folder, _, _, _ = exported
    lora, layout, row = adapted(tiny.decoder("llama"), targets=targets, head=HEAD)
    with pytest.raises(ModelError, match=says):
        import_adapter(folder, layout, row, lora)


def test_another_catalogue_is_refused(exported):
    folder, _, _, _ = exported
    lora, layout, row = adapted(tiny.decoder("llama"), head=[ParameterSpec("bias", (7,), zeros), HEAD[1]])
    with pytest.raises(ModelError, match=r"bias of shape \[6\], but this model needs \[7\]"):
        import_adapter(folder, layout, row, lora)


@pytest.mark.parametrize(
    "change",
    [{"use_dora": True}, {"use_rslora": True}, {"bias": "all"}, {"peft_type": "IA3"}, {"rank_pattern": {"q_proj": 4}}],
)
def test_what_is_not_plain_lora_is_refused(exported, change):
    folder, lora, layout, row = exported
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ModelError, match=rf"{next(iter(change))} = .*plain LoRA"):
        import_adapter(folder, layout, row, lora)


@pytest.mark.parametrize("name", ["adapter_model.bin", "adapter_model.pt"])
def test_pickles_are_refused_and_never_read(exported, name):
    folder, lora, layout, row = exported
    torch.save(load_file(folder / "adapter_model.safetensors"), folder / name)
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelError, match=f"{name}, a pickle"):
        import_adapter(folder, layout, row, lora)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors", "head.safetensors"])
def test_damaged_files_are_refused(exported, name):
    folder, lora, layout, row = exported
    (folder / name).write_bytes(b"\x08garbage")
    with pytest.raises(ModelError, match=name):
        import_adapter(folder, layout, row, lora)


@pytest.mark.parametrize("text", ["[]", "{}", '{"r": "many", "lora_alpha": 1}'])
def test_a_configuration_without_rank_is_refused(exported, text):
    folder, lora, layout, row = exported
    (folder / "adapter_config.json").write_text(text)
    with pytest.raises(ModelError, match="no adapter folder"):
        import_adapter(folder, layout, row, lora)


def test_missing_files_are_named(exported, tmp_path):
    folder, lora, layout, row = exported
    with pytest.raises(ModelError, match="no adapter folder"):
        import_adapter(tmp_path / "nothing", layout, row, lora)
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelError, match="does not exist"):
        import_adapter(folder, layout, row, lora)


def test_half_precision_files_are_read(exported):
    folder, lora, layout, row = exported
    path = folder / "adapter_model.safetensors"
    save_file({name: tensor.bfloat16() for name, tensor in load_file(path).items()}, path)
    torch.testing.assert_close(import_adapter(folder, layout, row, lora), row, rtol=1e-2, atol=1e-2)
