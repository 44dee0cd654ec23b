"""The section `[placement]` of the configuration: who holds which layers of the language model."""

from __future__ import annotations

from typing import Annotated, Literal, Union

from pydantic import BaseModel, ConfigDict, Field

from pplr.models.parts.cut import Cut


class WholePlacement(BaseModel):
    """Every client holds the whole language model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["whole"] = "whole"


class SplitPlacement(BaseModel):
    """A client holds the first and last layers of the language model, and somebody else all between.

    For the backbones generative and encoder.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["split"] = "split"
    bottom: int = Field(
        2,
        ge=0,
        le=1000,
        description="k: layers behind the embedding that stay with the client; 0 is the embedding alone.",
    )
    top: int = Field(1, ge=1, le=1000, description="m: layers before the head that stay with the client.")

    @property
    def cut(self) -> Cut:
        """Where the model is cut."""
        return Cut(self.bottom, self.top)


PlacementSettings = Annotated[
    Union[WholePlacement, SplitPlacement],  # noqa: UP007
    Field(discriminator="kind"),
]
