"""Loading a resolved model cut, each part by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pplr.models.hub.folder import weight_files
from pplr.models.hub.registry import Kind
from pplr.models.hub.resolver import ModelFiles
from pplr.models.parts import Cut, Part, Which, load_part
from pplr.models.parts.tensors import TensorFiles

if TYPE_CHECKING:
    import torch


def load_parts(
    files: ModelFiles, cut: Cut, *wanted: Which, dtype: torch.dtype | None = None, device: torch.device | str = "cpu"
) -> tuple[Part, ...]:
    """Return the `wanted` parts of a model, frozen; of the others nothing is read.

    A decoder's head that is tied to the embedding shares its memory, where both are wanted.

    Raises:
        ModelError: the model cannot be cut, or its files are damaged.
        ConfigError: the cut leaves the trunk no layer.
    """
    import torch

    tensors = TensorFiles(weight_files(files.path))
    head, parts, embedding = files.kind is Kind.DECODER, [], None
    for which in wanted:
        part = load_part(files.path, tensors, which, cut, head=head, dtype=dtype or torch.float32, embedding=embedding)
        part.module.to(device)
        if head and which is Which.BOTTOM:
            embedding = part.base.get_input_embeddings().weight.data
        parts.append(part)
    return tuple(parts)
