"""One client's adapter as a folder in the format of Hugging Face PEFT, and back.

`adapter_config.json` and `adapter_model.safetensors` are what `peft.PeftModel.from_pretrained` loads; parameters that
are no low-rank factors (the head of the sequence backbone, biases of items) stand beside them in `head.safetensors`.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pplr.errors import ModelError
from pplr.models.layout import Layout
from pplr.models.lora import FACTOR_A, FACTOR_B, Adapted
from pplr.models.ranks import limit_rank_
from pplr.storage import write_folder, write_text

CONFIG, ADAPTER, HEAD = "adapter_config.json", "adapter_model.safetensors", "head.safetensors"
PREFIX = "base_model.model."
PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")
PLAIN: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none", None),
    "use_dora": (False, None),
    "use_rslora": (False, None),
    "fan_in_fan_out": (False, None),
    "rank_pattern": ({}, None),
    "alpha_pattern": ({}, None),
    "modules_to_save": ([], None),
}
"""Settings of PEFT that change what an adapter computes, and the values that mean plain LoRA."""


def export_adapter(
    folder: Path,
    layout: Layout,
    row: Tensor,
    lora: Adapted | None,
    *,
    base_model: str,
    task_type: str,
    rank: int | None = None,
) -> None:
    """Write `row` [P] as a folder that PEFT loads; `folder` is written whole or not at all.

    Args:
        folder: where; what is already there is replaced.
        layout: of the row.
        row: one client's parameters.
        lora: the adapters of the language model; None where only a head is trained: then only the head is written.
        base_model: name of the language model, for whoever loads the folder.
        task_type: PEFT's task type, "CAUSAL_LM" or "FEATURE_EXTRACTION".
        rank: components that the row fills (see `pplr.models.ranks`): the folder's rank; absent: all. The folder's `lora_alpha`
            is scale x rank / r, which leaves alpha / r as it is.

    Raises:
        ValueError: the row fills more than `rank` components.
        StorageError: the disk is full or not writable.
    """
    named = layout.views(row.detach().cpu())
    factors = {spec.name for spec in lora.specs} if lora else set()
    if rank is not None:
        cut = row.clone()
        limit_rank_(layout, cut, rank)
        if not torch.equal(cut, row):
            raise ValueError(f"The row fills more than {rank} components.")
    adapter = {_peft_name(name): _filled(name, t, rank).contiguous() for name, t in named.items() if name in factors}
    head = {name: t.contiguous() for name, t in named.items() if name not in factors}

    def fill(target: Path) -> None:
        if lora is not None:
            save_file(adapter, target / ADAPTER, metadata={"format": "pt"})
            write_text(target / CONFIG, json.dumps(_config(lora, base_model, task_type, rank), indent=2) + "\n")
        if head:
            save_file(head, target / HEAD)

    write_folder(folder, fill)


def import_adapter(folder: Path, layout: Layout, row: Tensor, lora: Adapted | None = None) -> Tensor:
    """Return a copy of `row` [P] in which everything that the folder holds is replaced by what the folder holds.

    Args:
        folder: an adapter folder written by `export_adapter`, or by PEFT itself; with `lora` it may have a lower rank.
        layout: of the row.
        row: supplies what the folder does not hold: the head, where PEFT wrote the folder.
        lora: the adapters that the row is for; if given, the folder's scale must be theirs.

    Raises:
        ModelError: the folder is incomplete, holds pickles, is not plain LoRA, or does not fit the layout.
    """
    specs = {spec.name: spec for spec in layout.specs}
    result = row.detach().clone()
    views = layout.views(result)
    factors = [name for name in specs if name.endswith((FACTOR_A, FACTOR_B))]
    if factors:
        rank = _checked_rank(folder, lora)
        adapter = _load(folder / ADAPTER)
        named = {_layout_name(name): tensor for name, tensor in adapter.items()}
        places = {name: _filled(name, views[name], rank) for name in factors}
        _check_shapes(folder / ADAPTER, named, {name: tuple(place.shape) for name, place in places.items()})
        for name, tensor in named.items():
            views[name].zero_()
            places[name].copy_(tensor)
    if (folder / HEAD).exists() or not factors:
        head = _load(folder / HEAD)
        _check_shapes(folder / HEAD, head, {name: spec.shape for name, spec in specs.items() if name not in factors})
        for name, tensor in head.items():
            views[name].copy_(tensor)
    return result


def _filled(name: str, factor: Tensor, rank: int | None) -> Tensor:
    """Return the first `rank` components of a factor, A [r, in] or B [out, r], as a view of it."""
    return factor[:rank] if name.endswith(FACTOR_A) else factor[:, :rank]


def _config(lora: Adapted, base_model: str, task_type: str, rank: int | None) -> dict[str, Any]:
    written = lora.settings.rank if rank is None else rank
    scale = lora.settings.scale * written / lora.settings.rank
    return {
        "peft_type": "LORA",
        "task_type": task_type,
        "base_model_name_or_path": base_model,
        "r": written,
        "lora_alpha": int(scale) if scale.is_integer() else scale,
        "lora_dropout": lora.settings.dropout,
        "target_modules": list(lora.settings.targets),
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "inference_mode": True,
    }


def _checked_rank(folder: Path, lora: Adapted | None) -> int | None:
    """Return the folder's rank, None where it must be the layout's.

    Refused is what is not plain LoRA, or scales its update in another way than `lora`.
    """
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        rank, scale = int(config["r"]), float(config["lora_alpha"])
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise ModelError(
            f"{folder} is no adapter folder: {CONFIG} cannot be read ({problem!r}). Name a folder that holds {CONFIG} "
            f"and {ADAPTER}."
        ) from problem
    for key, allowed in PLAIN.items():
        value = config.get(key, allowed[-1])
        if value not in allowed:
            raise ModelError(
                f"The adapter in {folder} has {key} = {value!r}; only plain LoRA ({key} = {allowed[0]!r}) can be "
                "imported. Merge it into the base model, or train it again as plain LoRA."
            )
    if lora is None:
        return None
    own = lora.settings
    if not 0 < rank <= own.rank or not math.isclose(scale * own.rank, own.scale * rank):
        raise ModelError(
            f"The adapter in {folder} has rank {rank} and scale {scale:g}, this run rank {own.rank} and "
            f"scale {own.scale:g}. Set backbone.adapter.rank = {rank} and backbone.adapter.scale = {scale:g}."
        )
    return rank


def _check_shapes(path: Path, found: dict[str, Tensor], expected: dict[str, tuple[int, ...]]) -> None:
    missing, unknown = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if missing or unknown:
        differences = (("it lacks", missing), ("it has the unknown", unknown))
        parts = [f"{what} {names[0]} ({len(names)} in all)" for what, names in differences if names]
        raise ModelError(
            f"{path} does not hold this model's parameters: {' and '.join(parts)}. Choose the base model, the "
            "adapter's targets and the catalogue that it was trained with."
        )
    for name, shape in expected.items():
        if tuple(found[name].shape) != shape:
            raise ModelError(
                f"{path} holds {name} of shape {list(found[name].shape)}, but this model needs {list(shape)}. "
                "Choose the base model, the adapter's rank and the catalogue that it was trained with."
            )


def _load(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        pickles = [file.name for pattern in PICKLES for file in sorted(path.parent.glob(pattern))]
        if pickles:
            raise ModelError(
                f"{path.parent} holds {pickles[0]}, a pickle, which could run any program when it is read. Convert it "
                f"to {path.name} with safetensors where you trust it."
            )
        raise ModelError(f"{path} does not exist. Name a folder that holds it.")
    try:
        return dict(load_file(path))
    except (OSError, SafetensorError) as problem:
        raise ModelError(f"{path} is damaged: {problem}. Copy it again from where it was made.") from problem


def _peft_name(name: str) -> str:
    return f"{PREFIX}{name}.weight"


def _layout_name(name: str) -> str:
    return name.removeprefix(PREFIX).removesuffix(".weight")
