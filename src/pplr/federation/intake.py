"""What comes in during one round: answers are checked, admitted rows go into the bank, the others leave no trace."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from pplr.federation.admission import flaw, implausible, length, outlying, shortening
from pplr.federation.events import Event, Observer
from pplr.federation.messages import Absence, TrainTask, Update
from pplr.federation.settings import FederationSettings
from pplr.models.bank import AdapterBank


def row_digest(row: Tensor) -> str:
    """Return SHA-256 of a row's numbers, as they are in memory: little-endian float32 for a row of the bank."""
    # a copy, since a row of one number may have a stride that no buffer has; as bytes, since numpy knows no bfloat16
    numbers = row.detach().cpu().flatten().clone(memory_format=torch.contiguous_format)
    return hashlib.sha256(numbers.view(torch.uint8).numpy().data).hexdigest()


class Intake:
    """The answers of one round.

    The bank is the only place that holds the rows of a round: memory grows with the clients once, not twice.

    Attributes:
        updates: client -> its update without the row, for those that count.
        absent: client -> why it does not count.
        quarantined: those of them that sent something, which was refused.
        digests: client -> SHA-256 of the row that it sent, refused or not.
        shortened: client -> factor by which its update was shortened.
    """

    def __init__(
        self,
        tasks: Sequence[TrainTask],
        bank: AdapterBank,
        received: Tensor | None,
        settings: FederationSettings,
        observer: Observer,
    ) -> None:
        """Wait for the answers to `tasks`; `received` [clients, S] are the rows before training, where they were kept."""
        self._waiting = {task.client: task for task in tasks}
        self._bank = bank
        self._received = received
        self._settings = settings
        self._observe = observer
        self._lengths: dict[str, float] = {}
        self.updates: dict[str, Update] = {}
        self.absent: dict[str, str] = {}
        self.quarantined: set[str] = set()
        self.digests: dict[str, str] = {}
        self.shortened: dict[str, float] = {}

    def take(self, answer: Update | Absence) -> None:
        """Put the row of an update that can be the answer to its task into the bank."""
        task = self._waiting.get(answer.client)
        if task is None:
            reason = "it was not asked, or has answered already"
            self._observe(Event("quarantined", answer.round, answer.client, {"reason": reason}))
            return
        del self._waiting[answer.client]
        if isinstance(answer, Absence):
            self._leave_out(task, answer.reason, quarantined=answer.unusable)
            return
        self.digests[answer.client] = row_digest(answer.row)
        if (found := flaw(answer, task)) is not None:
            self._leave_out(task, found, quarantined=True)
            return
        if answer.targets:  # who has learned nothing has no row to give
            self._lengths[answer.client] = length(answer, task)
            self._bank.row(answer.client).copy_(answer.row)
        self.updates[answer.client] = replace(answer, row=answer.row.new_empty(0))  # a slice would hold the row

    def close(self) -> None:
        """Leave out those who have not answered, and compare those who have with each other."""
        for task in list(self._waiting.values()):
            self._leave_out(task, "it did not answer", quarantined=False)
        settings = self._settings
        refused: dict[str, str] = {}
        if settings.loss_bound is not None:
            losses = {name: update.loss for name, update in self.updates.items() if update.targets}
            refused |= implausible(losses, settings.loss_bound)
        if settings.norm_bound is not None:
            refused |= outlying(self._lengths, settings.norm_bound)
        for client, reason in refused.items():
            self._take_back(client, reason)
        if settings.norm_clip is not None:
            self._shorten(settings.norm_clip)

    def _take_back(self, client: str, reason: str) -> None:
        update = self.updates.pop(client)
        del self._lengths[client]
        if self._received is not None:
            self._bank.row(client).copy_(self._received[self._bank.index(client)])
        self._observe(Event("quarantined", update.round, client, {"reason": reason}))
        self.absent[client] = reason
        self.quarantined.add(client)

    def _shorten(self, bound: float) -> None:
        self.shortened = shortening(self._lengths, bound)
        for client, factor in self.shortened.items():
            if self._received is not None:
                self._bank.row(client).lerp_(self._received[self._bank.index(client)], 1 - factor)
            self._observe(Event("shortened", self.updates[client].round, client, {"factor": factor}))

    def _leave_out(self, task: TrainTask, reason: str, *, quarantined: bool) -> None:
        event = "quarantined" if quarantined else "absent"
        self._observe(Event(event, task.round, task.client, {"reason": reason}))
        self.absent[task.client] = reason
        if quarantined:
            self.quarantined.add(task.client)
