"""The section `[backbone]` of the configuration: one kind per backbone."""

from __future__ import annotations

from typing import Annotated, Union

from pydantic import Field

from pplr.models.encoder import EncoderSettings
from pplr.models.generative import GenerativeSettings
from pplr.models.sequence_settings import SequenceSettings, Where

BackboneSettings = Annotated[
    Union[SequenceSettings, EncoderSettings, GenerativeSettings],  # noqa: UP007
    Field(discriminator="kind"),
]

__all__ = ["BackboneSettings", "EncoderSettings", "GenerativeSettings", "SequenceSettings", "Where"]
