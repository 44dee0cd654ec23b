"""What is known of each finished round: JSON in the checkpoint, `rounds` in metrics.json, curves in the report."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

Matrix = list[list[float]]


class ClientRound(BaseModel):
    """One client in one round; what was not measured is None.

    Attributes:
        trained: it took part in this round.
        training_loss: L_c, per target token.
        tokens: tokens read while training.
        validation_loss: after mixing, per target token.
        validation: ranking metrics after mixing.
        users: validation users.
        improved: this was its best row so far.
        seconds: wall time of its training, by phase.
    """

    model_config = ConfigDict(extra="forbid")

    trained: bool
    training_loss: float | None = None
    tokens: int = 0
    validation_loss: float | None = None
    validation: dict[str, float] = {}
    users: int = 0
    improved: bool = False
    seconds: dict[str, float] = {}


class RoundRecord(BaseModel):
    """One finished round.

    Attributes:
        round: 1, 2, ...
        clients: by client name.
        score: the validation measure over all clients' users by which runs stop, higher is better; None without any.
        mixing: D [clients, clients], rows and columns in the order of `clients`; None where the strategy has none.
        details: the strategy's own figures, such as learning speeds.
        seconds: wall time by phase: train, aggregate, validate, total.
        bytes_up: what a network would have carried to the coordinator.
        bytes_down: what it would have carried to the clients.
        absent: client -> why its update was not used: it did not answer, or what it sent was refused.
        quarantined: those of `absent` that did send something.
    """

    model_config = ConfigDict(extra="forbid")

    round: int
    clients: dict[str, ClientRound]
    score: float | None
    mixing: Matrix | None
    details: dict[str, list[float] | Matrix]
    seconds: dict[str, float]
    bytes_up: int
    bytes_down: int
    absent: dict[str, str] = {}
    quarantined: list[str] = []
