"""Loading a resolved model cut, each part by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pplr.errors import ModelError
from pplr.models.hub.folder import weight_files
from pplr.models.hub.part_record import Party
from pplr.models.hub.registry import Kind
from pplr.models.hub.resolver import ModelFiles
from pplr.models.parts import Cut, Part, Which, load_part
from pplr.models.parts.tensors import TensorFiles

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

PARTS = {Party.CLIENT: (Which.BOTTOM, Which.TOP), Party.SERVER: (Which.TRUNK,)}
"""The parts that a party holds."""


def load_parts(
    files: ModelFiles, cut: Cut, *wanted: Which, dtype: torch.dtype | None = None, device: torch.device | str = "cpu"
) -> tuple[Part, ...]:
    """Return the `wanted` parts of a model, frozen; of the others nothing is read.

    A decoder's head that is tied to the embedding shares its memory, where both are wanted.

    Raises:
        ModelError: the model cannot be cut, its files are damaged, or the folder holds another part.
        ConfigError: the cut leaves the trunk no layer.
    """
    import torch

    _require_held(files, cut, wanted)
    tensors = TensorFiles(weight_files(files.path))
    head, parts, embedding = files.kind is Kind.DECODER, [], None
    for which in wanted:
        part = load_part(files.path, tensors, which, cut, head=head, dtype=dtype or torch.float32, embedding=embedding)
        part.module.to(device)
        if head and which is Which.BOTTOM:
            embedding = part.base.get_input_embeddings().weight.data
        parts.append(part)
    return tuple(parts)


def _require_held(files: ModelFiles, cut: Cut, wanted: Sequence[Which]) -> None:
    """Raise ModelError where a folder with a party's part lacks layers that are asked for; a smaller part is in it."""
    held = files.part
    if held is None:
        return
    there = {which: set(Cut(held.bottom, held.top).layers(which, held.layers)) for which in PARTS[held.party]}
    asked = {which: cut.layers(which, held.layers) for which in wanted}
    if all(which in there and set(layers) <= there[which] for which, layers in asked.items()):
        return
    ranges = " and ".join(
        f"{layers.start + 1} to {layers.stop} ({which})" for which, layers in asked.items() if len(layers)
    )
    raise ModelError(
        f"{files.path} holds {held}, and layers {ranges} of {held.layers} are asked for (bottom = {cut.bottom}, top = "
        f"{cut.top}). It was made for placement.bottom = {held.bottom} and placement.top = {held.top}; make the part that "
        "is needed with `pplr models part`, or name the whole model."
    )
