"""The section `[fusion]` of the configuration: what a client counts on its own data beside its model."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

Statistic = Literal["popularity", "recent", "transitions", "item_knn", "item_knn_recency"]
"""A baseline of `pplr.evaluation`, fitted on one client's training events."""


class FusionSettings(BaseModel):
    """What a client counts on its own training events, to mix with its model's scores in tests and recommendations."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    statistics: tuple[Statistic, ...] = Field(
        (),
        description="Baselines that a client fits on its own events, weighted by its own validation events. []: the "
        "model alone. 'recent' needs event times.",
    )
    users: int = Field(
        1000,
        ge=1,
        description="Validation users on whom a client learns its weights, at most; fewer from 17,000 items on, so that their "
        "scores fit 64 MB a statistic.",
    )

    @field_validator("statistics")
    @classmethod
    def _once_each(cls, statistics: tuple[Statistic, ...]) -> tuple[Statistic, ...]:
        if len(set(statistics)) < len(statistics):
            raise ValueError("a statistic stands there twice: name each once")
        return statistics
