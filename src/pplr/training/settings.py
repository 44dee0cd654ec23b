"""How one client trains in one round."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator


class TrainingSettings(BaseModel):
    """Local training with AdamW.

    It goes on from round to round by default. Its moments are of the row before mixing, and starting afresh leaves a client less
    to remember; but clients learn clearly less that way where rounds are few (docs/method.md).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: float | int = Field(
        1,
        ge=0.01,
        le=1000,
        description="Local epochs per round. A fraction such as 0.25 takes that part of the client's examples, at least one "
        "batch, and the next round goes on behind it; losses are of that part alone.",
    )
    learning_rate: float = Field(3e-3, gt=0, le=1, description="AdamW's learning rate.")
    item_rate: float = Field(
        1.0,
        gt=0,
        le=100,
        description="Trained vectors of items (backbone.residual), not their biases, learn at so many times learning_rate.",
    )
    weight_decay: float = Field(
        0.01, ge=0, le=1, description="Decoupled weight decay, not on gains, biases, positions."
    )
    moments: Literal["fresh", "kept"] = Field(
        "kept",
        description="AdamW's moments (moving averages of gradients): kept from round to round, which takes twice the row in "
        "memory and in every state on disk, or fresh each round. They never leave the party that trains the layers. Adapters "
        "that are trained once a round start afresh; and fresh is the default where a strategy or backbone.adapter.ranks makes "
        "adapters anew from their products.",
    )
    warmup_steps: int = Field(
        3,
        ge=0,
        description="Steps of each round over which the learning rate rises linearly; where rounds are parts of an epoch and "
        "moments are kept, of the client's first one.",
    )
    schedule: Literal["constant", "cosine"] = Field(
        "cosine", description="Course of the learning rate over the rounds of the run, after warm-up."
    )
    clip_norm: float = Field(1.0, gt=0, description="Largest L2 norm of the gradient; larger ones are scaled down.")
    batch_tokens: int = Field(
        512, ge=1, description="Tokens per batch, padding included (items, for the sequence backbone)."
    )
    batch_examples: int | None = Field(None, ge=1, description="Also at most this many examples per batch.")
    max_examples: int | None = Field(
        None, ge=1, description="Training examples over all clients, sampled once by the seed; absent: all of them."
    )

    @field_validator("epochs", mode="before")
    @classmethod
    def _whole_where_it_can_be(cls, value: object) -> object:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError("give a number of epochs, such as 2, or a part of one, such as 0.25")  # noqa: TRY004 (pydantic turns only this one into a sentence)
        return int(value) if math.isfinite(value) and value == int(value) else value
