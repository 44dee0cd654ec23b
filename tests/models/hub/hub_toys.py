"""What is written to try the hub with: model folders, wheels that carry them, and entries of the table of models."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from pplr.models.hub.registry import Kind, KnownModel, Packing, Wheel


def write_model(folder: Path, *, seed: int = 0, size: int = 64) -> Path:
    """Write a folder that has everything a model folder needs; it is no model that computes anything."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    weights = {f"layer.{i}.weight": generator.standard_normal((size, size)).astype(np.float32) for i in range(3)}
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", "architectures": ["BertModel"]}))
    (folder / "tokenizer.json").write_text("{}")
    return folder


def write_wheel(folder: Path, package: str, content: dict[str, bytes], **of_wheel: object) -> Wheel:
    """Write a wheel that pip accepts, with `content` in it, and return its description."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{package.replace('-', '_')}-1.0"
    path = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
        archive.writestr(f"{stem}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        archive.writestr(f"{stem}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{stem}.dist-info/RECORD", "")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return Wheel(package, "1.0", path.name, sha256, **of_wheel)  # type: ignore[arg-type]


def describe(packing: Packing, wheels: tuple[Wheel, ...], folder: str = "", **changes: object) -> KnownModel:
    """Return the entry of a model called `toy` in the table of known models."""
    fields: dict[str, object] = {
        "name": "toy",
        "aliases": ("somebody/toy-model",),
        "kind": Kind.ENCODER,
        "packing": packing,
        "folder": folder,
        "wheels": wheels,
        "parameters": 3 * 64 * 64,
        "download_bytes": 50_000,
        "stored_bytes": 50_000,
        "licence": "Apache-2.0",
        "package_licence": "MIT",
        "note": "For tests.",
    }
    return KnownModel(**(fields | changes))  # type: ignore[arg-type]
