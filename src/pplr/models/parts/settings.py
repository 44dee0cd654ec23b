"""The section `[placement]` of the configuration: who holds which layers of the language model, if any."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Union

from pydantic import BaseModel, ConfigDict, Field, field_validator

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
    server: str | None = Field(
        None,
        description="Where `pplr trunk serve` has the layers between, as host:port; absent: they are in this process.",
    )
    certificates: str = Field(
        "certificates", description="Folder of `pplr pki init`, by which parties know each other (with server)."
    )
    codec: Literal["float32", "bfloat16", "int8"] = Field(
        "float32", description="How states travel: exactly, in half of the bytes, or in a quarter (with server)."
    )
    pieces: int = Field(
        2, ge=1, le=8, description="Pieces of a batch that are under way at once, to hide the wire (with server)."
    )
    bucket: int = Field(
        1,
        ge=1,
        le=65536,
        description="Frames are filled up to a multiple of so many tokens, to hide lengths (with server).",
    )

    wait_seconds: float = Field(
        120.0, gt=0, le=86_400, description="How long a server that is away is waited for (with server)."
    )

    @field_validator("server")
    @classmethod
    def _is_an_address(cls, server: str | None) -> str | None:
        return None if server is None else _address(server)

    @property
    def cut(self) -> Cut:
        """Where the model is cut."""
        return Cut(self.bottom, self.top)


class CataloguePlacement(BaseModel):
    """A server reads the items' texts with the language model, and a client fetches the vectors: it has no model.

    For the backbone sequence.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["catalogue"] = "catalogue"
    server: str = Field("127.0.0.1:7444", description="Where `pplr catalogue serve` has the vectors, as host:port.")
    certificates: str = Field(
        "certificates", description="Folder of `pplr pki init`, by which parties know each other."
    )
    wait_seconds: float = Field(120.0, gt=0, le=86_400, description="How long a server that is away is waited for.")

    @field_validator("server")
    @classmethod
    def _is_an_address(cls, server: str) -> str:
        return _address(server)


def _address(server: str) -> str:
    if not re.fullmatch(r"[\w.-]+:\d{1,5}|\[[0-9a-fA-F:.]+\]:\d{1,5}", server):
        raise ValueError('write host:port, for example "127.0.0.1:7443"')
    return server


PlacementSettings = Annotated[
    Union[WholePlacement, SplitPlacement, CataloguePlacement],  # noqa: UP007
    Field(discriminator="kind"),
]
