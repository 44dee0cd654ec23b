"""Tables of items whose rows add up over the clients that have moved them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pplr.federation.strategies.base import Aggregator, Cohort, Mixing
from pplr.models.bank import blocks, mix_
from pplr.models.layout import Layout


def item_tables(layout: Layout) -> list[str]:
    """Return the names of the tables of items that `layout` shares."""
    return [spec.name for spec in layout.specs if spec.table and not spec.private]


class ItemSums(Aggregator):
    """Mixes tables of items by the clients that have moved an item, and everything else by D.

    With r_j what client j had received of an item's row, u_j what it has made of it, and H the clients that client c takes
    from (D_cj > 0) and for which u_j differs from r_j:

        new row c = sum over all j of D_cj r_j  +  |H| sum over H of D_cj (u_j - r_j) / sum over H of D_cj

    A mean over all clients makes small what the few learn that have an item: the mean over those few is FedSubAvg (Ding et
    al. 2022, arXiv:2109.07704). As many times that mean is what training on all their data, one after the
    other, would have added. A client that takes from nobody keeps its row.
    """

    needs_received = True

    def __init__(self, layout: Layout, rest: Aggregator | None = None) -> None:
        """`rest` combines all but the tables; None: D."""
        self._layout = layout
        self._tables = item_tables(layout)
        self._rest = rest
        self.by_matrix = rest is None or rest.by_matrix

    def combine_(self, rows: Tensor, mixing: Mixing, cohort: Cohort, received: Tensor | None = None) -> None:
        """Replace the rows; `received` must be given."""
        if mixing.matrix is None or received is None:
            raise ValueError("Sums over items need D and the rows before training.")
        if not cohort.present.any():
            return
        matrix = torch.from_numpy(mixing.matrix).to(rows)
        takers = torch.from_numpy(np.flatnonzero(np.diag(mixing.matrix) < 1)).to(rows.device)
        givers = torch.nonzero((matrix[takers] != 0).any(0)).flatten()
        named, before = self._layout.views(rows), self._layout.views(received)
        for name in self._tables:
            table = named.pop(name)
            _add_up_(table, before[name], matrix[takers][:, givers], takers, givers)
        if self._rest is not None:
            self._rest.combine_(rows, mixing, cohort, received)
            return
        for view in named.values():
            mix_(view.view(len(rows), -1), torch.from_numpy(mixing.matrix))


def _add_up_(table: Tensor, before: Tensor, weights: Tensor, takers: Tensor, givers: Tensor) -> None:
    """Replace the rows of `takers` in `table` [clients, items, ...]; `weights` [takers, givers] are those of D."""
    items = table.shape[1]
    width = table[0, 0].numel()
    taken = (weights > 0).to(weights)
    for block in blocks(4 * len(table) * width, items):
        start = before[givers, block].flatten(2) if width > 1 else before[givers, block].unsqueeze(-1)
        step = table[givers, block].reshape(start.shape) - start
        moved = step.ne(0).any(-1).to(weights)
        share, heat = weights @ moved, taken @ moved
        factor = torch.where(share > 0, heat / share, 0.0)
        new = torch.einsum("cj,jid->cid", weights, start)
        new += factor.unsqueeze(-1) * torch.einsum("cj,jid->cid", weights, step)
        table[takers, block] = new.reshape(len(takers), *table[0, block].shape)
