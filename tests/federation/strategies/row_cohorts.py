"""Rows of a small layout with two adapters and a table of items, and what a strategy makes of them. Used by the tests beside it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from pplr.federation.strategies import Cohort, Strategy
from pplr.models.bank import gram, mix_
from pplr.models.layout import Layout, ParameterSpec, kaiming, zeros

LAYOUT = Layout(
    [
        ParameterSpec("projection", (3, 2), kaiming),
        ParameterSpec("block.0.q.lora_A", (2, 5), kaiming),
        ParameterSpec("block.0.q.lora_B", (4, 2), zeros),
        ParameterSpec("block.1.q.lora_A", (2, 5), kaiming),
        ParameterSpec("block.1.q.lora_B", (4, 2), zeros),
        ParameterSpec("bias", (3,), zeros, decay=False),
        ParameterSpec("residual", (4, 2), zeros, table=True),
    ]
)


@dataclass
class Round:
    """What clients bring: whole rows [clients, P] that started equal, in double precision."""

    rows: torch.Tensor
    start: torch.Tensor
    present: np.ndarray
    sizes: np.ndarray
    losses: np.ndarray
    number: int = 1


def round_of(seed: int, count: int, *, absent: int = 0, number: int = 1, equal: bool = False) -> Round:
    rng = np.random.default_rng(seed)
    start = LAYOUT.initial_row(seed).double()
    changes = torch.from_numpy(rng.normal(size=(1 if equal else count, LAYOUT.size)))
    items = LAYOUT.views(changes)["residual"]
    items *= torch.from_numpy(rng.random((*items.shape[:2], 1)) < 0.6)  # a client has some of them
    changes = changes.expand(count, -1)
    present = np.ones(count, bool)
    present[rng.permutation(count)[:absent]] = False
    sizes = rng.integers(1, 500, 1 if equal else count).astype(float) * np.ones(count)
    losses = np.where(present, rng.uniform(0.1, 8, 1 if equal else count), np.nan)
    changes = changes * torch.from_numpy(present)[:, None]
    return Round(start + 0.3 * changes, start, present, sizes, losses, number)


def layout_of(strategy: Strategy) -> Layout:
    return Layout(strategy.scope(LAYOUT.specs))


def shared_of(strategy: Strategy, rows: torch.Tensor) -> torch.Tensor:
    """The part [..., S] of whole rows [..., P] that the strategy shares, in its own order."""
    views = LAYOUT.views(rows)
    parts = [views[spec.name].flatten(rows.dim() - 1) for spec in layout_of(strategy).specs if not spec.private]
    return torch.cat(parts, -1) if parts else rows[..., :0].clone()


def cohort_of(strategy: Strategy, given: Round) -> Cohort:
    rows, start = shared_of(strategy, given.rows), shared_of(strategy, given.start)
    reference = start.expand_as(rows) if strategy.similarity_of == "updates" else None
    products = None if strategy.similarity_of is None else gram(rows, reference).numpy()
    return Cohort(given.number, given.present, given.sizes, given.losses, products)


def combined(strategy: Strategy, given: Round, *, aggregator=None, cohort: Cohort | None = None) -> torch.Tensor:
    """The new shared rows [clients, S], as the coordinator makes them."""
    rows = shared_of(strategy, given.rows).clone()
    if aggregator is None:
        aggregator = strategy.aggregator(layout_of(strategy), shared_of(strategy, given.start))
    cohort = cohort or cohort_of(strategy, given)
    mixing = strategy.mixing(cohort)
    if aggregator is None:
        mix_(rows, torch.from_numpy(mixing.matrix))
    else:
        received = shared_of(strategy, given.start).expand_as(rows) if aggregator.needs_received else None
        aggregator.combine_(rows, mixing, cohort, received)
    return rows
