"""A party loads its own tensors and no others, and mistakes are named."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cut_models import LAYERS, saved, weights
from pplr.errors import ConfigError, ModelError
from pplr.models.parts import Cut, Which, load_part
from pplr.models.parts.tensors import TensorFiles


def _spoilt(folder: Path, keep: range) -> None:
    """Overwrite with NaN all tensors of layers outside of `keep`, without changing the file's shape."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    for name, tensor in tensors.items():
        if ".layers." in name and int(name.split(".layers.")[1].split(".")[0]) not in keep:
            tensor.fill_(float("nan"))
    save_file(tensors, path, {"format": "pt"})


@pytest.mark.parametrize(
    ("which", "keep"), [(Which.BOTTOM, range(2)), (Which.TRUNK, range(2, 4)), (Which.TOP, range(4, 5))]
)
def test_a_part_reads_nothing_of_the_other_layers(tmp_path: Path, which: Which, keep: range) -> None:
    saved("llama", tmp_path)
    _spoilt(tmp_path, keep)
    files = weights(tmp_path)
    part = load_part(tmp_path, files, which, Cut(2), head=True)
    own = sum(p.nbytes for p in part.module.parameters())
    assert all(torch.isfinite(p).all() for p in part.module.parameters())
    assert files.bytes_read == own
    names = {name.rsplit(".", 1)[0] for name, _ in part.module.named_parameters()}
    if which is Which.TRUNK:
        assert not any("embed" in name or "head" in name or name == "norm" for name in names)


_SCRIPT = """
import json, sys
from pathlib import Path
from pplr.models.parts import Cut, Which, load_part
from pplr.models.parts.tensors import TensorFiles
folder, wanted = Path(sys.argv[1]), sys.argv[2].split(",")
files = TensorFiles([folder / "model.safetensors"])
for which in wanted:
    load_part(folder, files, Which(which), Cut(2), head=True)
counts = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
maps = [line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith("safetensors")]
print(json.dumps({"read": files.bytes_read, "maps": maps}))
"""


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("which", ["bottom,top", "trunk"])
def test_no_process_maps_a_weights_file(tmp_path: Path, which: str) -> None:
    saved("llama", tmp_path)
    out = subprocess.run(
        [sys.executable, "-c", _SCRIPT, str(tmp_path), which], check=True, capture_output=True, text=True, timeout=120
    ).stdout
    seen = json.loads(out.splitlines()[-1])
    assert seen["maps"] == []
    assert 0 < seen["read"] < (tmp_path / "model.safetensors").stat().st_size


def test_a_folder_with_one_partys_tensors_is_enough(tmp_path: Path) -> None:
    saved("llama", tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "server")
    tensors = load_file(tmp_path / "server" / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if ".layers.2." in name or ".layers.3." in name}
    save_file(kept, tmp_path / "server" / "model.safetensors")
    part = load_part(tmp_path / "server", weights(tmp_path / "server"), Which.TRUNK, Cut(2), head=True)
    assert part.layers == range(2, 4)
    with pytest.raises(ModelError, match=r"lack model.embed_tokens.weight, which its bottom needs"):
        load_part(tmp_path / "server", weights(tmp_path / "server"), Which.BOTTOM, Cut(2), head=True)


def test_berts_old_names_are_understood(tmp_path: Path) -> None:
    whole = saved("bert", tmp_path)
    tensors = {
        "bert."
        + name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in load_file(tmp_path / "model.safetensors").items()
    }
    save_file(tensors, tmp_path / "model.safetensors")
    part = load_part(tmp_path, weights(tmp_path), Which.TRUNK, Cut(1, 1), head=False)
    expected = whole.encoder.layer[1].attention.output.LayerNorm.weight
    assert torch.equal(part.module.get_submodule("encoder.layer.0.attention.output.LayerNorm").weight, expected)


@pytest.mark.parametrize(
    ("cut", "sentence"),
    [
        (Cut(LAYERS - 1, 1), r"leave no layer for the server: the model has 5\. Set placement.bottom to 3 or lower"),
        (Cut(0, 5), r"Set placement.top to 4"),
        (Cut(-1, 1), r"bottom is 0 or more"),
        (Cut(1, 0), r"top 1 or more"),
    ],
)
def test_a_cut_that_leaves_nothing_is_refused(cut: Cut, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        cut.layers(Which.TRUNK, LAYERS)


@pytest.mark.parametrize("cut", [Cut(k, m) for m in (1, 2, 3) for k in range(LAYERS - m)], ids=str)
def test_the_parts_have_every_layer_once(cut: Cut) -> None:
    assert [n for which in Which for n in cut.layers(which, LAYERS)] == list(range(LAYERS))
    assert len(cut.layers(Which.TRUNK, LAYERS)) >= 1


@pytest.mark.parametrize(("kind", "head"), [("GPT2", True), ("ModernBert", False), ("Electra", False), ("Phi3", True)])
def test_a_model_that_cannot_be_cut_is_named(tmp_path: Path, kind: str, head: bool) -> None:
    import transformers

    config = getattr(transformers, f"{kind}Config")()
    config.save_pretrained(tmp_path)
    with pytest.raises(
        ModelError, match=rf"'{config.model_type}' cannot be split .* placement.kind = 'whole', .* bert, .*xlm-roberta"
    ):
        load_part(tmp_path, [], Which.TRUNK, Cut(0), head=head)


def test_a_tensor_that_is_cut_off_or_of_another_shape_is_named(tmp_path: Path) -> None:
    saved("llama", tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.0.mlp.up_proj.weight"] = torch.zeros(3, 3)
    save_file(tensors, path)
    with pytest.raises(ModelError, match=r"shape \(3, 3\) for layers.0.mlp.up_proj.weight"):
        load_part(tmp_path, weights(tmp_path), Which.BOTTOM, Cut(2), head=True)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ModelError, match="not a whole safetensors file"):
        TensorFiles([path])


def test_a_tensor_is_read_as_safetensors_reads_it(tmp_path: Path) -> None:
    given = {
        "a": torch.randn(3, 4),
        "b": torch.randn(5).to(torch.bfloat16),
        "c": torch.arange(6).reshape(2, 3),
        "d": torch.zeros(0, 4),
        "e": torch.tensor(2.5),
        "f": torch.tensor([True, False]),
    }
    save_file(given, tmp_path / "x.safetensors")
    files = TensorFiles([tmp_path / "x.safetensors"])
    for name, tensor in given.items():
        read = files.read(name)
        assert read.dtype == tensor.dtype
        assert torch.equal(read, tensor)
        assert files.shape(name) == tuple(tensor.shape)
