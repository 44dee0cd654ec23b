"""A folder that holds what one party of a split model needs, and nothing of the other's.

    client   config.json, tokenizer, model.safetensors with embedding, first and last layers and head
    server   config.json, model.safetensors with the layers between

Beside them are the model's licence texts and a manifest: hashes of all files, the cut, and the digest of the whole
model's weights, by which the parties agree on the model although neither has all of it. Tensors are copied as they are
stored, under their names.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from pplr.errors import ModelError, StorageError
from pplr.models.hub.digest import TensorPlace, tensor_bytes
from pplr.models.hub.folder import SINGLE, TOKENIZERS, weight_files
from pplr.models.hub.manifest import Manifest, record_files, write_manifest
from pplr.models.hub.part_record import PartRecord, Party
from pplr.models.hub.parts import PARTS
from pplr.models.hub.registry import Kind
from pplr.models.hub.resolver import ModelFiles
from pplr.models.parts import Cut
from pplr.models.parts.load import stored_tensors, whole_config
from pplr.models.parts.tensors import TensorFiles
from pplr.storage import write_folder

_PAPERS = ("LICEN[CS]E*", "NOTICE*", "*TERMS*")
_TOKENIZER = (
    *TOKENIZERS,
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt", "bpe.codes"),
    *("chat_template.jinja", "chat_template.json"),
)


def write_part(files: ModelFiles, party: Party, cut: Cut, folder: Path) -> Manifest:
    """Write the part of a whole model that `party` holds into a new `folder`, whole or not at all.

    Raises:
        ModelError: the model cannot be cut, is a part itself, or its files are damaged.
        ConfigError: the cut leaves the server no layer.
        StorageError: the folder is not empty, or cannot be written.
    """
    if files.part is not None:
        raise ModelError(f"{files.path} holds {files.part} only. Name the whole model.")
    tensors = TensorFiles(weight_files(files.path))
    head = files.kind is Kind.DECODER
    names = {name for which in PARTS[party] for name in stored_tensors(files.path, tensors, which, cut, head=head)}
    layers = int(whole_config(files.path).num_hidden_layers)
    _require_empty(folder)
    made: list[Manifest] = []

    def fill(new: Path) -> None:
        _copy(files.path, new, ("config.json", *_PAPERS, *(_TOKENIZER if party is Party.CLIENT else ())))
        _write_tensors(new / SINGLE, {name: tensors.place(name) for name in sorted(names)})
        made.append(_manifest(files, new, PartRecord(party, cut.bottom, cut.top, layers)))
        write_manifest(new, made[0])

    write_folder(folder, fill)
    return made[0]


def _require_empty(folder: Path) -> None:
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise StorageError(f"{folder} is there already, and is not an empty folder. Name a new one with --to.")


def _copy(source: Path, target: Path, patterns: Sequence[str]) -> None:
    for path in {path for pattern in patterns for path in source.glob(pattern) if path.is_file()}:
        shutil.copyfile(path, target / path.name)


def _write_tensors(path: Path, places: dict[str, TensorPlace]) -> None:
    """Write a safetensors file: length of the header, header, then the tensors' bytes, read and written in pieces."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, place in places.items():
        start, end = end, end + place.end - place.begin
        header[name] = {"dtype": place.dtype, "shape": place.shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8, as the library writes them
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for place in places.values():
            for content in tensor_bytes(place):
                file.write(content)


def _manifest(files: ModelFiles, folder: Path, part: PartRecord) -> Manifest:
    known = files.manifest
    return Manifest(
        name=files.path.name if known is None else known.name,
        kind=files.kind,
        source=() if known is None else known.source,
        revision="" if known is None else known.revision,
        licence="" if known is None else known.licence,
        digest=files.digest,
        converted_with={} if known is None else known.converted_with,
        files=record_files(folder),
        part=part,
    )
