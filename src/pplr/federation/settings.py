"""The section `[federation]` of the configuration."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator


class FederationSettings(BaseModel):
    """Rounds, and who takes part in them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rounds: int = Field(
        20, ge=0, le=100_000, description="Rounds at most; 0 measures what all start from: the model without training."
    )
    patience: int = Field(
        5, ge=1, description="Stop when the validation score over all clients has not improved for this many rounds."
    )
    participation: float | int = Field(
        1.0,
        description="Clients per round, drawn anew each round: a share (a number with a point, up to 1.0) or a count.",
    )

    quorum: float = Field(
        0.5,
        gt=0,
        le=1,
        description="Share of a round's clients whose updates must be there and admitted, or the run stops.",
    )
    deadline_seconds: float | None = Field(
        None, gt=0, description="Silos that have not answered after so long are left out; absent: they are waited for."
    )
    norm_bound: float | None = Field(
        None,
        gt=1,
        description="Updates longer than so many times the round's median are refused (from three clients); absent: none.",
    )
    norm_clip: float | None = Field(
        None,
        gt=0,
        description="Updates longer than so many times the round's median are shortened to that (from three clients); absent: none.",
    )
    loss_bound: float | None = Field(
        None,
        gt=1,
        description="Updates with a loss so many times above or below the round's median are refused (from three clients); absent: none.",
    )

    start_with: int | None = Field(
        None,
        ge=1,
        description="Silos that must have connected before round 1; others may join in later rounds; absent: all.",
    )
    silos: tuple[Annotated[str, Field(min_length=1, max_length=100)], ...] = Field(
        (), description="Names of all silos of a run over a network; the coordinator waits for them before round 1."
    )

    @field_validator("participation", mode="before")
    @classmethod
    def _share_or_count(cls, value: object) -> object:
        share = isinstance(value, float) and 0 < value <= 1
        count = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        if not share and not count:
            raise ValueError("give a share above 0.0 and up to 1.0, or a whole number of clients, 1 or more")
        return value

    def needed(self, asked: int) -> int:
        """Return how many of `asked` clients make a quorum: at least one."""
        return max(1, math.ceil(self.quorum * asked - 1e-9))

    def per_round(self, clients: int) -> int:
        """Return how many of `clients` take part in a round: at least one, at most all."""
        wanted = self.participation * clients if isinstance(self.participation, float) else self.participation
        return max(1, min(clients, round(wanted)))
