"""All clients in this process, one after the other, over one frozen model."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from pplr.errors import CheckpointError
from pplr.federation.client import Client
from pplr.federation.events import Event, Observer
from pplr.federation.messages import ClientInfo, EvaluateTask, Report, TrainTask, Update
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

    def train(self, tasks: Sequence[TrainTask], observer: Observer) -> Iterator[Update]:
        """Give one update per task, in the order of the tasks."""
        for task in tasks:
            update = self._clients[task.client].train(task, _progress(task, observer))
            data = {"loss": update.loss, "tokens": update.tokens, "seconds": update.seconds}
            observer(Event("client_trained", task.round, task.client, data))
            yield update

    def evaluate(self, tasks: Sequence[EvaluateTask], observer: Observer) -> list[Report]:
        """Return one report per task."""
        reports = []
        for task in tasks:
            observer(Event("evaluating", task.round, task.client, {"part": task.part.name.lower()}, transient=True))
            reports.append(self._clients[task.client].evaluate(task))
        return reports

    def state(self) -> dict[str, Tensor]:
        """Return private parts, personal rows, best rows and best scores of all clients."""
        tensors: dict[str, Tensor] = {}
        for name, client in self._clients.items():
            tensors[f"{name}/private"] = client.private
            tensors[f"{name}/best_score"] = torch.tensor([client.best_score], dtype=torch.float64)
            if client.best is not None:
                tensors[f"{name}/best"] = client.best
            if client.personal is not None:
                tensors[f"{name}/personal"] = client.personal
        return tensors

    def restore(self, state: dict[str, Tensor]) -> None:
        """Make the clients remember `state` again.

        Raises:
            CheckpointError: it is the state of other clients or of another model.
        """
        sizes = {f"{name}/private": client.private.shape for name, client in self._clients.items()}
        if any(name not in state or state[name].shape != shape for name, shape in sizes.items()):
            raise CheckpointError(
                f"The checkpoint belongs to other clients than {', '.join(self._clients)}, or to another model: the data "
                "or the configuration has changed. Start again without --resume, in a new folder."
            )
        for name, client in self._clients.items():
            client.private = state[f"{name}/private"].to(client.private)
            client.best_score = float(state[f"{name}/best_score"])
            best, personal = state.get(f"{name}/best"), state.get(f"{name}/personal")
            client.best = None if best is None else best.to(client.private)
            client.personal = None if personal is None else personal.to(client.private)


def _progress(task: TrainTask, observer: Observer) -> Callable[[StepProgress], None]:
    last = 0.0

    def report(progress: StepProgress) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= PROGRESS_SECONDS:
            last = now
            observer(Event("training", task.round, task.client, vars(progress), transient=True))

    return report
