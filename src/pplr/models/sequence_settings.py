"""Settings of the sequence backbone."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pplr.models.arithmetic import Precision
from pplr.models.backbone import Contrast, NewBias
from pplr.models.lora import AdapterSettings

Where = Literal["shared", "private", "none"]


class SequenceSettings(BaseModel):
    """A small causal transformer over language-model item vectors: fast on a CPU, and the default."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["sequence"] = "sequence"
    model: str = Field("minilm", description="Language model that reads the items' texts (see `pplr models list`).")
    width: int = Field(128, ge=8, le=4096, description="Width of the transformer.")
    layers: int = Field(2, ge=1, le=48, description="Layers of the transformer.")
    heads: int = Field(2, ge=1, le=64, description="Attention heads; must divide width.")
    positions: int = Field(50, ge=2, le=2048, description="Newest items of a history that are read.")
    dropout: float = Field(0.2, ge=0, lt=1, description="Dropout while training.")
    residual: Where = Field(
        "shared",
        description="A trained vector per item beside its text vector; private keeps it from mixing: shared ones tell "
        "the coordinator which items a silo has seen.",
    )
    bias: Where = Field("shared", description="A trained popularity bias per item; private keeps it from mixing.")
    contrast: Contrast = "known"
    new_bias: NewBias = "mean"
    attributes: tuple[str, ...] | None = Field(
        None, description="Item columns that the text contains beside the title; absent: all of them."
    )
    item_tokens: int = Field(48, ge=4, le=512, description="Tokens of an item's text that are read.")
    adapters: bool = Field(
        False, description="Also train adapters in the language model; item vectors are then refreshed every round."
    )
    adapter_updates: Literal["step", "round"] = Field(
        "step",
        description="With adapters: trained at every step on items of its batch, or once a round along the gradient of "
        "all items, as placement.kind = 'catalogue' needs it.",
    )
    precision: Precision = "float32"
    live_items: int = Field(
        32, ge=1, description="With adapters: items per step whose text is read anew, for gradients."
    )
    adapter: AdapterSettings = Field(default=AdapterSettings(), description="Used where adapters = true.")

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> Self:
        if self.width % self.heads:
            heads = _nearest([n for n in range(1, 65) if self.width % n == 0], self.heads)
            widths = _nearest([n for n in range(8, 4097) if n % self.heads == 0], self.width)
            raise ValueError(
                f"backbone.heads = {self.heads} does not divide backbone.width = {self.width}. "
                f"Set heads to {heads}, or width to {widths}."
            )
        return self


def _nearest(allowed: list[int], given: int) -> str:
    """Return the allowed numbers (rising) next to `given` on either side, as "3 or 5"."""
    below, above = [n for n in allowed if n < given], [n for n in allowed if n > given]
    return " or ".join(str(n) for n in (*below[-1:], *above[:1]))
