"""A client that keeps the contract while others do not, and whether its row ends as it should."""

from __future__ import annotations

import threading
import time
from typing import Any

import torch
from torch import Tensor

from pplr.trunk.stub import DirectLink, Link
from pplr.trunk.work import Manner, States, TrunkWork
from result_file import summary

PAUSE = 0.02


class WellBehaved:
    """Takes one step after the other inside its block, from states that only depend on the step."""

    def __init__(self, link: Link, width: int) -> None:
        self._link = link
        self._width = width
        self._seconds: list[float] = []
        self._problem: Exception | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._train, daemon=True)

    def __enter__(self) -> WellBehaved:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def figures(self, kept: Tensor, work: TrunkWork, client: str) -> dict[str, Any]:
        """Return the steps, their seconds, and how far the row [P] that the server has kept is from what `work` computes.

        The distance is a share of all that training has changed.

        Raises:
            RunError: this client was not served.
        """
        if self._problem is not None:
            raise self._problem
        first = work.rows.row(client).clone()
        work.rows.begin_round(1)
        link = DirectLink(work, client)
        link.start(1)
        for number in range(1, len(self._seconds) + 1):
            self._step(link, number)
        link.finish()
        expected = work.rows.row(client)
        changed = torch.linalg.vector_norm(expected - first)
        return {
            "steps": len(self._seconds),
            "step_seconds": summary(self._seconds),
            "row_off_by": float(torch.linalg.vector_norm(kept - expected) / changed),
        }

    def _train(self) -> None:
        try:
            self._link.start(1)
            while not self._ended.wait(PAUSE) or not self._seconds:
                started = time.perf_counter()
                self._step(self._link, len(self._seconds) + 1)
                self._seconds.append(time.perf_counter() - started)
            self._link.finish()
        except Exception as problem:  # it is raised by whoever asks for the figures
            self._problem = problem

    def _step(self, link: Link, number: int) -> None:
        generator = torch.Generator().manual_seed(number)
        given = States(torch.randn(2, 9, self._width, generator=generator), torch.ones(2, 9, dtype=torch.bool))
        result = link.forward(number, given, Manner(causal=True, dropout=number, gradients=True))()
        link.backward(number, States(torch.randn(2, 9, self._width, generator=generator), result.present))
        link.gradient(number)
        link.step(number, 1e-3, 1.0)
