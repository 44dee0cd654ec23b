"""What travels between coordinator and clients: values, never references to anybody's state."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from pplr.data.dataset import Part
from pplr.evaluation import UserMetrics
from pplr.fusion import Learned


@dataclass(frozen=True)
class ClientInfo:
    """What a coordinator knows of a client before the first round.

    Attributes:
        name: unique; clients are ordered by it.
        size: n_c, number of training examples.
        here: it has been there at some time; one that has not is not asked.
    """

    name: str
    size: int
    here: bool = True


@dataclass(frozen=True)
class TrainTask:
    """Train for one round.

    Attributes:
        client: who.
        round: 1, 2, ...
        progress: (round - 1) / rounds.
        row: [S] the shared row to start from.
    """

    client: str
    round: int
    progress: float
    row: Tensor


@dataclass(frozen=True)
class Update:
    """What a client sends after training.

    Attributes:
        client: who.
        round: of the task it answers.
        row: [S] the trained shared row.
        loss: L_c, mean training loss per target token.
        targets: target tokens trained on.
        tokens: tokens read.
        seconds: wall time by phase.
    """

    client: str
    round: int
    row: Tensor
    loss: float
    targets: int
    tokens: int
    seconds: dict[str, float]


@dataclass(frozen=True)
class Absence:
    """Instead of an update: a client that could not be asked, failed, or did not answer in time.

    Attributes:
        client: who.
        round: of the task that has no answer.
        reason: why, in a few words.
        unusable: an answer came, and it could not be read.
    """

    client: str
    round: int
    reason: str
    unusable: bool = False


@dataclass(frozen=True)
class EvaluateTask:
    """Measure a row on held-out events.

    Attributes:
        client: who.
        round: the round after which it is measured.
        part: validation or test.
        row: [S] the shared row, or None for the best row that the client has kept.
        rank: also rank the catalogue (slow for some backbones); the loss is always measured.
        trained: False where the round's update did not count: the client goes back to what it remembered before it.
    """

    client: str
    round: int
    part: Part
    row: Tensor | None
    rank: bool
    trained: bool = True


@dataclass(frozen=True)
class Report:
    """What a client measured.

    Attributes:
        client: who.
        part: of the task it answers.
        loss: mean negative log-likelihood per target token, NaN without held-out events.
        users: users measured.
        metrics: mean over those users; empty unless ranked.
        improved: validation only: this row is the best that the client has had.
        per_user: the metrics of single users. They are for analysis within one house and never leave a silo.
        seconds: wall time.
        metrics_alone: as `metrics`, of the model without the client's own statistics; None where it has no such.
        alone: as `per_user`, of the same.
        fusion: how it mixes its model with these statistics; that too stays in the house.
    """

    client: str
    part: Part
    loss: float
    users: int
    metrics: dict[str, float] = field(default_factory=dict)
    improved: bool = False
    per_user: UserMetrics | None = None
    seconds: float = 0.0
    metrics_alone: dict[str, float] | None = None
    alone: UserMetrics | None = None
    fusion: Learned | None = None
