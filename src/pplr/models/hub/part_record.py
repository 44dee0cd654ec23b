"""Which layers a folder holds that has one party's part of a model, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Party(StrEnum):
    """Who holds a part of a cut model."""

    CLIENT = "client"
    """Embedding, first and last layers, head and tokenizer."""
    SERVER = "server"
    """The layers between, the trunk."""


@dataclass(frozen=True)
class PartRecord:
    """Whose part of a model is there, and where the model was cut.

    Attributes:
        party: whose.
        bottom: k, layers behind the embedding that are the client's.
        top: m, layers before the head that are the client's.
        layers: those of the whole model.
    """

    party: Party
    bottom: int
    top: int
    layers: int

    def __str__(self) -> str:
        """Return what is held, such as "the client's part (embedding, layers 1 to 2 and 30 of 30, head)"."""
        last = self.layers - self.top
        if self.party is Party.SERVER:
            return f"the server's part ({_layers(self.bottom, last)} of {self.layers})"
        middle = f"{_layers(last, self.layers)} of {self.layers}"
        if self.bottom:
            middle = f"{_layers(0, self.bottom)} and {middle}"
        return f"the client's part (embedding, {middle}, what comes behind)"

    def as_json(self) -> dict[str, Any]:
        """Return what `part_record` reads."""
        return asdict(self)


def part_record(content: Mapping[str, Any]) -> PartRecord:
    """Return the record in a JSON object.

    Raises:
        ValueError: it holds something else.
    """
    numbers = {name: content.get(name) for name in ("bottom", "top", "layers")}
    if set(content) != {"party", *numbers} or any(type(number) is not int for number in numbers.values()):
        raise ValueError("its entry 'part' is not one of party, bottom, top and layers")
    return PartRecord(Party(content["party"]), **numbers)  # type: ignore[arg-type]


def _layers(start: int, stop: int) -> str:
    return f"layer {stop}" if stop == start + 1 else f"layers {start + 1} to {stop}"
