"""Who carries a task to a client and its answer back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from torch import Tensor

from pplr.federation.events import Observer
from pplr.federation.messages import Absence, ClientInfo, EvaluateTask, Report, TrainTask, Update


class Engine(Protocol):
    """Runs tasks on clients, wherever they are.

    Attributes:
        clients: all clients, ordered by name.
    """

    @property
    def clients(self) -> tuple[ClientInfo, ...]: ...  # noqa: D102

    def train(
        self, tasks: Sequence[TrainTask], observer: Observer, seconds: float | None = None
    ) -> Iterator[Update | Absence]:
        """Give one update per task as they arrive, in any order; whoever does not answer in `seconds` is absent.

        Rows of tasks that have been answered may change meanwhile: whoever sends a task later sends its own row only.
        """

    def evaluate(self, tasks: Sequence[EvaluateTask], observer: Observer, seconds: float | None = None) -> list[Report]:
        """Return the reports in the order of the tasks; those of clients that do not answer in `seconds` are missing."""

    def state(self) -> dict[str, Tensor]:
        """Return what the clients remember between rounds, as far as this engine keeps it for them."""

    def restore(self, state: dict[str, Tensor]) -> None:
        """Make the clients remember `state` again."""
