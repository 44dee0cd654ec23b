"""A digest of weights that stays the same however they are stored."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from pplr.errors import ModelError

_MAX_HEADER = 100_000_000  # bytes; the safetensors library has the same limit
_PIECE = 1 << 20


class TensorPlace(NamedTuple):
    """Where the bytes of a tensor lie: `path[begin:end]`."""

    path: Path
    dtype: str
    shape: list[int]
    begin: int
    end: int


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in lower-case hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def weights_digest(files: Iterable[Path]) -> str:
    """Return a SHA-256 over name, type, shape and bytes of all tensors in safetensors files, by name.

    It depends on neither the order of tensors, nor how they are spread over files, nor on comments in the headers: the
    same weights, converted by another version or sharded otherwise, have the same digest.

    Raises:
        ModelError: a file is not in safetensors format, or is cut off.
    """
    tensors: dict[str, TensorPlace] = {}
    for path in files:
        tensors.update(tensor_places(path))
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(json.dumps([name, tensor.dtype, tensor.shape]).encode())
        for content in tensor_bytes(tensor):
            digest.update(content)
    return digest.hexdigest()


def tensor_bytes(tensor: TensorPlace) -> Iterator[memoryview]:
    """Yield the bytes of a tensor piece by piece, each valid until the next: no file is mapped, and little is held.

    Raises:
        ModelError: the file ends within the tensor.
    """
    buffer = memoryview(bytearray(min(_PIECE, tensor.end - tensor.begin)))
    with tensor.path.open("rb", buffering=0) as file:
        file.seek(tensor.begin)
        left = tensor.end - tensor.begin
        while left:
            count = file.readinto(buffer[: min(left, len(buffer))])
            if not count:
                raise _broken(tensor.path, "it ends within a tensor")
            yield buffer[:count]
            left -= count


def tensor_places(path: Path) -> dict[str, TensorPlace]:
    """Return the tensors of one safetensors file: 8 bytes of header length, a JSON header, then the tensors' bytes."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if 0 < length <= min(_MAX_HEADER, size - 8) else {}
        header.pop("__metadata__", None)
        start = 8 + length
        found = {
            name: TensorPlace(
                path, entry["dtype"], entry["shape"], *(start + offset for offset in entry["data_offsets"])
            )
            for name, entry in header.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _broken(path, "its header cannot be read") from error
    if not found:
        raise _broken(path, "its header is cut off or names no tensor")
    if max(tensor.end for tensor in found.values()) != size:
        raise _broken(path, "its length does not fit its header")
    return found


def _broken(path: Path, what: str) -> ModelError:
    return ModelError(f"{path} is not a whole safetensors file: {what}. Copy it again from where it came from.")
