"""The section `[federation]` of the configuration."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class FederationSettings(BaseModel):
    """Rounds, and who takes part in them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rounds: int = Field(20, ge=1, le=100_000, description="Rounds at most.")
    patience: int = Field(
        5, ge=1, description="Stop when the validation score over all clients has not improved for this many rounds."
    )
    participation: float | int = Field(
        1.0,
        gt=0,
        description="Clients per round, drawn anew each round: a fraction (a number with a point, up to 1.0) or a "
        "count.",
    )

    def per_round(self, clients: int) -> int:
        """Return how many of `clients` take part in a round: at least one, at most all."""
        wanted = self.participation * clients if isinstance(self.participation, float) else self.participation
        return max(1, min(clients, round(wanted)))
