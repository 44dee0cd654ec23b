"""All clients in this process, one after the other, over one frozen model."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

from torch import Tensor

from pplr.errors import CheckpointError
from pplr.federation.client import Client
from pplr.federation.events import Event, Observer
from pplr.federation.messages import Absence, ClientInfo, EvaluateTask, Report, TrainTask, Update
from pplr.training import StepProgress

PROGRESS_SECONDS = 0.5
"""Progress inside a client's training is reported at most this often."""


class InProcessEngine:
    """Simulates a federation: the clients differ in nothing but their rows and their data."""

    def __init__(self, clients: Sequence[Client]) -> None:
        self._clients = {client.info.name: client for client in sorted(clients, key=lambda c: c.info.name)}

    @property
    def clients(self) -> tuple[ClientInfo, ...]:
        """All clients, ordered by name."""
        return tuple(client.info for client in self._clients.values())

    def train(
        self, tasks: Sequence[TrainTask], observer: Observer, seconds: float | None = None
    ) -> Iterator[Update | Absence]:
        """Give one update per task, in the order of the tasks; nobody is waited for, so that `seconds` are not needed."""
        for task in tasks:
            update = self._clients[task.client].train(task, _progress(task, observer))
            data = {"loss": update.loss, "tokens": update.tokens, "seconds": update.seconds}
            observer(Event("client_trained", task.round, task.client, data))
            yield update

    def evaluate(self, tasks: Sequence[EvaluateTask], observer: Observer, seconds: float | None = None) -> list[Report]:
        """Return one report per task."""
        reports = []
        for task in tasks:
            observer(Event("evaluating", task.round, task.client, {"part": task.part.name.lower()}, transient=True))
            reports.append(self._clients[task.client].evaluate(task))
        return reports

    def state(self) -> dict[str, Tensor]:
        """Return what all clients remember: private parts, personal rows, moments, best rows and best scores."""
        return {
            f"{name}/{what}": tensor
            for name, client in self._clients.items()
            for what, tensor in client.state().items()
        }

    def restore(self, state: dict[str, Tensor]) -> None:
        """Make the clients remember `state` again.

        Raises:
            CheckpointError: it is the state of other clients or of another model.
        """
        kept: dict[str, dict[str, Tensor]] = {name: {} for name in self._clients}
        for key, tensor in state.items():
            client, _, what = key.rpartition("/")
            kept.setdefault(client, {})[what] = tensor
        if kept.keys() != self._clients.keys() or not all(kept.values()):
            raise CheckpointError(
                f"The checkpoint belongs to other clients than {', '.join(self._clients)}: the data or the "
                "configuration has changed. Start again without --resume, in a new folder."
            )
        for name, tensors in kept.items():
            self._clients[name].restore(tensors)


def _progress(task: TrainTask, observer: Observer) -> Callable[[StepProgress], None]:
    last = 0.0

    def report(progress: StepProgress) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= PROGRESS_SECONDS:
            last = now
            observer(Event("training", task.round, task.client, vars(progress), transient=True))

    return report
