"""Where a run stands, gathered from its events: what both displays of progress show."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pplr.federation.events import Event


@dataclass
class ClientTrack:
    """What is known of one client; None is not known yet.

    Attributes:
        training_loss: mean over its last local training.
        validation_loss: after the last mixing.
        ndcg: validation NDCG@10 after the last mixing.
        improved: the last validation was its best so far.
        tokens_per_second: speed of its last local training.
    """

    training_loss: float | None = None
    validation_loss: float | None = None
    ndcg: float | None = None
    improved: bool = False
    tokens_per_second: float | None = None


class Track:
    """Where a run stands.

    Attributes:
        round: the round that runs, 0 before the first.
        rounds: how many there will be at most.
        clients: the clients seen so far, in the order in which they were.
        participants: the clients that train in this round.
        trained: those of them that are done.
        busy: the client that trains or is evaluated now, or None.
        doing: "training", "evaluating", or "".
        part: share of the busy client's training that is done, 0 to 1.
        loss: of the busy client.
        tokens_per_second: of the busy client.
        best_round: the round with the best validation score, 0 before the first.
    """

    round: int
    rounds: int
    clients: dict[str, ClientTrack]
    participants: list[str]
    trained: set[str]
    busy: str | None
    doing: str
    part: float
    loss: float | None
    tokens_per_second: float | None
    best_round: int
    _best: float
    _started: float
    _durations: list[float]

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._forget()

    def see(self, event: Event) -> None:
        """Take in an event; those that say nothing of where the run stands change nothing."""
        handler = getattr(self, f"_see_{event.name}", None)
        if handler is not None:
            handler(event)

    @property
    def round_part(self) -> float:
        """Share of the round's training that is done, 0 to 1."""
        done = len(self.trained) + (self.part if self.busy not in self.trained else 0.0)
        return min(1.0, done / len(self.participants)) if self.participants else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Estimated seconds until the last round is over, if the run does not stop early; None while unknown."""
        if not self.rounds:
            return None
        elapsed = self._clock() - self._started if self.participants else 0.0
        if self._durations:
            per_round = sum(self._durations) / len(self._durations)
        elif self.round_part >= 0.1:
            per_round = elapsed / self.round_part
        else:
            return None
        finished = self.round if not self.participants else self.round - 1
        return max(0.0, (self.rounds - finished) * per_round - min(elapsed, per_round))

    def client(self, name: str) -> ClientTrack:
        """Return what is known of the client `name`."""
        return self.clients.setdefault(name, ClientTrack())

    def _see_clients_made(self, event: Event) -> None:
        # a new run, in the demo after another
        self._forget()
        for name in event.data["sizes"]:
            self.client(name)

    def _see_resumed(self, event: Event) -> None:
        self.round = event.round or 0

    def _see_round_started(self, event: Event) -> None:
        self.round, self.rounds = event.round or 0, event.data["rounds"]
        self.participants, self.trained = list(event.data["clients"]), set()
        self._started = self._clock()
        self._rest()

    def _see_training(self, event: Event) -> None:
        self.busy, self.doing = event.client, "training"
        self.part = event.data["step"] / max(1, event.data["steps"])
        self.loss, self.tokens_per_second = event.data["loss"], event.data["tokens_per_second"]

    def _see_client_trained(self, event: Event) -> None:
        client = self.client(event.client or "")
        client.training_loss = event.data["loss"]
        seconds = event.data["seconds"].get("total", 0.0)
        client.tokens_per_second = event.data["tokens"] / seconds if seconds > 0 else None
        self.trained.add(event.client or "")
        self._rest()

    def _see_evaluating(self, event: Event) -> None:
        self._rest()
        self.busy, self.doing = event.client, "evaluating"

    def _see_client_validated(self, event: Event) -> None:
        client = self.client(event.client or "")
        client.validation_loss, client.improved = event.data["loss"], event.data["improved"]
        client.ndcg = event.data.get("ndcg@10")

    def _see_round_finished(self, event: Event) -> None:
        score = event.data["score"]
        if score is not None and score > self._best:
            self._best, self.best_round = score, event.round or 0
        self._durations.append(event.data["seconds"]["total"])
        self.participants = []
        self._rest()

    def _forget(self) -> None:
        self._started = self._clock()
        self._durations = []
        self._best = float("-inf")
        self.round = self.rounds = self.best_round = 0
        self.clients = {}
        self.participants = []
        self.trained = set()
        self._rest()

    def _rest(self) -> None:
        self.busy = None
        self.doing, self.part = "", 0.0
        self.loss = None
        self.tokens_per_second = None
