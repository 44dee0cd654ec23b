"""How one client trains in one round."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class TrainingSettings(BaseModel):
    """Local training with AdamW.

    Its moments are of the row before mixing, and where each round starts afresh a client has less to remember. But on two of
    three data sets they learn clearly less that way (docs/method.md).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(1, ge=1, le=1000, description="Local epochs per round.")
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
        "fresh",
        description="AdamW's moments (moving averages of gradients): fresh each round, or kept from round to round, which takes "
        "twice the row in memory and in every state on disk. They never leave the party that trains the layers. Adapters "
        "that are trained once a round start afresh.",
    )
    warmup_steps: int = Field(3, ge=0, description="Steps of each round over which the learning rate rises linearly.")
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
