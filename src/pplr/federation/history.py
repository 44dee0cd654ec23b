"""What is known of each finished round: JSON in the checkpoint, `rounds` in metrics.json, curves in the report."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from pplr.federation.client import SelectBy
from pplr.federation.messages import Report, Update

Matrix = list[list[float]]
MOST_CLIENTS = 100
"""Of more clients no matrices are kept: their numbers grow with the square, and would outgrow rows and all."""


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

    def score(self, select_by: SelectBy) -> float | None:
        """Return the measure by which runs stop, higher is better; None where it was not measured."""
        value = self.validation.get(select_by) if select_by != "loss" else self.validation_loss
        if value is None or math.isnan(value) or not self.users:
            return None
        return value if select_by != "loss" else -value


class RoundRecord(BaseModel):
    """One finished round.

    Attributes:
        round: 1, 2, ...
        clients: by client name.
        score: the validation measure over all clients' users by which runs stop, higher is better; None without any.
        mixing: D [clients, clients], rows and columns in the order of `clients`; None where the strategy has none,
            or there are more than 100 clients.
        details: the strategy's own figures, such as learning speeds; no matrices of more than 100 clients.
        seconds: wall time by phase: train, aggregate, validate, total.
        bytes_up: what a network would have carried to the coordinator.
        bytes_down: what it would have carried to the clients: a row to train on, and the mixed one to measure.
        absent: client -> why its update was not used: it did not answer, or what it sent was refused.
        quarantined: those of `absent` that did send something.
        awaited: clients that were not asked, because they had not been there yet.
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
    awaited: list[str] = []

    def measured(self, select_by: SelectBy) -> dict[str, ClientRound]:
        """Return the clients that have a score."""
        return {name: one for name, one in self.clients.items() if one.score(select_by) is not None}


def kept_matrix(matrix: NDArray[np.float64] | None) -> Matrix | None:
    """Return a matrix [clients, clients] as it is kept, or None where it is not."""
    return None if matrix is None or len(matrix) > MOST_CLIENTS else matrix.tolist()


def kept_details(details: Mapping[str, NDArray[np.float64]]) -> dict[str, list[float] | Matrix]:
    """Return a strategy's figures as they are kept."""
    return {name: values.tolist() for name, values in details.items() if values.ndim < 2 or len(values) <= MOST_CLIENTS}


def score_of(clients: Iterable[ClientRound], select_by: SelectBy) -> float | None:
    """Return the mean over all these clients' users, higher is better, or None where nobody has held-out events."""
    known = [(value, one.users) for one in clients if (value := one.score(select_by)) is not None]
    total = sum(users for _, users in known)
    return sum(value * users for value, users in known) / total if total else None


def improves(record: RoundRecord, history: Sequence[RoundRecord], best_round: int, select_by: SelectBy) -> bool:
    """Return whether a round is better than the best of the rounds in `history`, or counts in its place.

    It is compared over the clients that it has measured, each with its newest score up to the best round: one that misses a
    validation makes a round neither easier nor harder. Where a client is measured for the first time, scores of before are of
    something else, and the round is the best.
    """
    if not best_round:
        return True
    if record.score is None or history[best_round - 1].score is None:
        return history[best_round - 1].score is None
    mine = record.measured(select_by)
    if mine.keys() - {name for one in history for name in one.measured(select_by)}:
        return True
    newest: dict[str, ClientRound] = {}
    for one in history[:best_round]:
        newest |= one.measured(select_by)
    both = [name for name in mine if name in newest]
    now, before = (score_of([each[name] for name in both], select_by) for each in (mine, newest))
    return now is not None and before is not None and now > before


def client_round(update: Update | None, report: Report | None) -> ClientRound:
    """Return what is known of one client in a round: it may have trained or not, and answered a validation or not."""
    trained = {}
    if update is not None:
        trained = {"training_loss": _number(update.loss), "tokens": update.tokens, "seconds": update.seconds}
    validated = {}
    if report is not None:
        validated = {
            "validation_loss": _number(report.loss),
            "validation": report.metrics,
            "users": report.users,
            "improved": report.improved,
        }
    return ClientRound.model_validate({"trained": update is not None, **trained, **validated})


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
