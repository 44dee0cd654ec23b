"""Rows of a trunk's server with made-up gradients, the same ones whenever a step is taken."""

from __future__ import annotations

import torch

from pplr.models.layout import Layout, ParameterSpec, kaiming
from pplr.trunk.rows import ServerRows

LAYOUT = Layout([ParameterSpec("a", (2, 3), kaiming), ParameterSpec("b", (4,), kaiming)])
CLIENTS = ("ada", "bob", "cyd")


def fresh_rows(weight_decay: float = 0.0) -> ServerRows:
    """Rows of three clients before the first round."""
    return ServerRows(LAYOUT, CLIENTS, LAYOUT.initial_row(1), weight_decay)


def gradient(client: str, step: int) -> torch.Tensor:
    """The gradient of a client's step."""
    seed = CLIENTS.index(client) * 100 + step
    return torch.randn(LAYOUT.size, generator=torch.Generator().manual_seed(seed))


def train(rows: ServerRows, client: str, steps: int, start: int = 0) -> None:
    """Take the steps from `start` to `steps`."""
    for step in range(start, steps):
        rows.training(client).row.gradient.add_(gradient(client, step))
        rows.step(client, step + 1, 0.1, 0.5)
