"""The section `[federation]` of the configuration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from pplr.federation.messages import ClientInfo


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
    joins: dict[str, Annotated[int, Field(ge=1)]] = Field(
        {},
        description="First rounds of clients that join later, such as { client-3 = 5 }; the others begin in round 1.",
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

    @model_validator(mode="after")
    def _all_join(self) -> Self:
        for name, first in self.joins.items():
            if first > self.rounds > 0:
                raise ValueError(
                    f"federation.joins has client {name!r} join in round {first}, and there are {self.rounds}. Raise "
                    "federation.rounds, or have it join earlier"
                )
        return self

    def here(self, clients: Sequence[ClientInfo], number: int) -> list[str]:
        """Return the names of those that can be asked in a round."""
        return [client.name for client in clients if client.here and self.joins.get(client.name, 1) <= number]

    def needed(self, asked: int) -> int:
        """Return how many of `asked` clients make a quorum: at least one."""
        return max(1, math.ceil(self.quorum * asked - 1e-9))

    def per_round(self, clients: int) -> int:
        """Return how many of `clients` take part in a round: at least one, at most all."""
        wanted = self.participation * clients if isinstance(self.participation, float) else self.participation
        return max(1, min(clients, round(wanted)))
