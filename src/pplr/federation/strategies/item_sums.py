"""Tables of items whose rows add up over the clients that have moved them."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from pplr.federation.strategies.base import Aggregator, Cohort, Floats, Mixing
from pplr.models.bank import blocks, mix_
from pplr.models.layout import Layout


def item_tables(layout: Layout) -> list[str]:
    """Return the names of the tables of items that `layout` shares."""
    return [spec.name for spec in layout.specs if spec.table and not spec.private]


class ItemSums(Aggregator):
    """Mixes tables of items by the clients that have moved an item, and everything else by D, or by `rest`.

    With r_j what client j had received of an item's row, u_j what it has made of it, and H the clients that client c takes
    from (D_cj > 0) and for which u_j differs from r_j:

        new row c = sum over all j of D_cj r_j  +  n_H sum over H of D_cj (u_j - r_j) / sum over H of D_cj
        n_H       = (sum over H of D_cj)^2 / sum over H of D_cj^2

    A mean over all clients shrinks what the few that have an item learn of it: the mean over those few is FedSubAvg (Ding et
    al. 2022, arXiv:2109.07704). n_H times that mean is about what training on their data one after the other would add. n_H
    is their number where they weigh alike, and 1 where one outweighs all others (the effective number of weighted samples,
    Kish 1965): a client that keeps to itself gets its own step once, and one of no weight adds nothing. A client that takes
    from nobody keeps its row. With `adding` false n_H is 1, and steps are averaged.
    """

    needs_received = True

    def __init__(self, layout: Layout, rest: Aggregator | None = None, *, adding: bool = True) -> None:
        """`rest` combines all but the tables; None: D."""
        self._layout = layout
        self._adding = adding
        self._tables = item_tables(layout)
        self._rest = rest
        self.by_matrix = rest is None or rest.by_matrix

    def combine_(self, rows: Tensor, mixing: Mixing, cohort: Cohort, received: Tensor | None = None) -> None:
        """Replace the rows; `received` must be given."""
        if mixing.matrix is None or received is None:
            raise ValueError("Sums over items need D and the rows before training.")
        if not cohort.present.any():
            return
        named, before = self._layout.views(rows), self._layout.views(received)
        for name in self._tables:
            _add_up_(named.pop(name), before[name], mixing.matrix, adding=self._adding)
        if self._rest is not None:
            self._rest.combine_(rows, mixing, cohort, received)
            return
        for view in named.values():
            mix_(view.view(len(rows), -1), torch.from_numpy(mixing.matrix))


def _add_up_(table: Tensor, before: Tensor, matrix: Floats, *, adding: bool) -> None:
    """Replace the rows in `table` [clients, items, ...] of those who take from others, by D [clients, clients]."""
    takers = np.flatnonzero(np.diag(matrix) < 1)
    givers = np.flatnonzero(matrix[takers].any(axis=0))
    if not len(takers) or not table.numel():
        return
    weights = torch.from_numpy(matrix[np.ix_(takers, givers)]).to(table.device)
    relative = weights / weights.amax(1, keepdim=True)  # squares of what is smallest do not become zero for all
    width = math.prod(table.shape[2:])
    for block in blocks(4 * len(table) * width, table.shape[1]):
        start = before[givers, block].reshape(len(givers), -1, width)
        step = table[givers, block].reshape(start.shape) - start
        movers = step.ne(0).any(-1).to(relative)
        share, squares = relative @ movers, relative.square() @ movers
        factor = torch.where(squares > 0, share / squares if adding else 1 / share, 0.0)  # n_H / share
        times = (relative.unsqueeze(-1) * factor.unsqueeze(1) * movers).to(step)  # [takers, givers, items]
        new = torch.einsum("cj,jid->cid", weights.to(step), start)
        new += torch.einsum("cji,jid->cid", times, step)
        table[takers, block] = new.reshape(len(takers), -1, *table.shape[2:])
