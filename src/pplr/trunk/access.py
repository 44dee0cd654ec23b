"""How a run reaches its trunk: a link per client, and the control that its coordinator has."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from pplr.trunk.control import DirectControl, TrunkControl
from pplr.trunk.stub import DirectLink, Link
from pplr.trunk.work import TrunkWork


class TrunkAccess(ABC):
    """The trunk's server, as one run knows it."""

    @abstractmethod
    def control(self, *, fresh: bool, forgotten: Sequence[str] = ()) -> TrunkControl:
        """Return the coordinator's control; `fresh` begins a run, and forgets what the server had.

        Rows of `forgotten` clients, which have left the run for good, are deleted.
        """

    @abstractmethod
    def link(self, client: str) -> Link:
        """Return a client's link."""

    def traffic(self) -> dict[str, Any] | None:
        """Return the bytes that have travelled, by direction and kind of frame; None where there is no wire."""
        return None

    def renew(self) -> None:
        """Forget that the server was away too long, or has refused somebody: whoever asks next tries again."""
        return

    @abstractmethod
    def close(self) -> None:
        """Leave the server."""


class DirectAccess(TrunkAccess):
    """Everything in one process, without a wire."""

    def __init__(self, work: TrunkWork) -> None:
        self._work = work
        self._control = DirectControl(work.rows)

    def control(self, *, fresh: bool, forgotten: Sequence[str] = ()) -> TrunkControl:
        """Return the control; the rows are as they are."""
        return self._control

    def link(self, client: str) -> Link:
        """Return a link."""
        return DirectLink(self._work, client)

    def close(self) -> None:
        """Do nothing."""
