"""Single tensors of a model folder, read and not mapped: the rest of a file never enters the process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from pplr.errors import ModelError
from pplr.models.hub.digest import TensorPlace, tensor_places

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


class TensorFiles:
    """The tensors in safetensors files, by name.

    Attributes:
        bytes_read: bytes of tensors that were read so far.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        """Read the headers of `files`.

        Raises:
            ModelError: a file is not in safetensors format, or is cut off.
        """
        self._places: dict[str, TensorPlace] = {}
        for path in files:
            self._places.update(tensor_places(path))
        self.bytes_read = 0

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def place(self, name: str) -> TensorPlace:
        """Return where a tensor lies."""
        return self._places[name]

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor, without reading it."""
        return tuple(self._places[name].shape)

    def read(self, name: str) -> Tensor:
        """Return a tensor in memory of its own.

        Raises:
            ModelError: its type is unknown, or the file ends early.
        """
        place = self._places[name]
        dtype = _DTYPES.get(place.dtype)
        if dtype is None:
            raise ModelError(f"The tensor {name} in {place.path} has the type {place.dtype}, which cannot be loaded.")
        tensor = torch.empty(place.shape, dtype=dtype)
        size = tensor.numel() * tensor.element_size()
        if size != place.end - place.begin:
            raise ModelError(
                f"The tensor {name} in {place.path} has {place.end - place.begin} bytes instead of {size}."
            )
        with place.path.open("rb") as file:
            file.seek(place.begin)
            if size and file.readinto(tensor.reshape(-1).view(torch.uint8).numpy().data) != size:
                raise ModelError(f"{place.path} ends within the tensor {name}. Copy it again from where it came from.")
        self.bytes_read += size
        return tensor
