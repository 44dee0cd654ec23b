"""Tables of items, whose rows are combined over the clients that have moved them."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pplr.federation.strategies.base import Aggregator, Cohort, Floats, Mixing
from pplr.models.bank import blocks, mix_
from pplr.models.layout import Layout

Combining = Literal["submodel", "sum", "rescaled"]
"""What becomes of the steps of those who have an item: averaged, added up, or added up and stretched."""


LEAST = 1e-100
"""What a client takes from another counts as nothing below this part of what it takes most."""


def item_tables(layout: Layout) -> list[str]:
    """Return the names of the tables of items that `layout` shares."""
    return [spec.name for spec in layout.specs if spec.table and not spec.private]


class ItemSums(Aggregator):
    """Mixes tables of items by the clients that have moved an item, and everything else by D, or by `rest`.

    With r_j what client j had received of an item's row, u_j what it has made of it, and H the clients that client c takes
    from (D_cj > 0) and for which u_j differs from r_j:

        new row c = sum over all j of D_cj r_j  +  times x sum over H of D_cj (u_j - r_j) / sum over H of D_cj
        times     = 1                 "submodel": averaged over those who have the item
                    n_H               "sum": added up
                    sqrt(n_H n)       "rescaled": added up, and stretched by sqrt(n / n_H)
        n_H       = (sum over H of D_cj)^2 / sum over H of D_cj^2
        n         = the same over all clients that have trained and that c takes from, or n_H where that is more

    A mean over all clients shrinks what the few that have an item learn of it: the mean over those few is FedSubAvg (Ding et
    al. 2022, arXiv:2109.07704). n_H times that mean is about what training on their data one after the other would add. n_H
    is their number where they weigh alike, and 1 where one outweighs all others (the effective number of weighted samples,
    Kish 1965): a client that keeps to itself gets its own step once, and one of no weight adds nothing. A client that takes
    from nobody keeps its row.

    "rescaled" makes up for what Adam does to items that few clients have. Its steps are divided by the root of the mean square
    gradient over all steps. A number with a gradient in p of T steps, and nearly none in the others, moves by sqrt(p T) learning
    rates, if moments are kept. In n clients of equal size, n_H of which meet it alike, each moves it by sqrt(p / n_H x T / n), and
    their sum is shorter than sqrt(p T) by sqrt(n_H / n).
    """

    needs_received = True

    def __init__(self, layout: Layout, combining: Combining, rest: Aggregator | None = None) -> None:
        """`rest` combines all but the tables; None: D."""
        self._layout = layout
        self._combining = combining
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
            _add_up_(named.pop(name), before[name], mixing.matrix, cohort.present, self._combining)
        if self._rest is not None:
            self._rest.combine_(rows, mixing, cohort, received)
            return
        for view in named.values():
            mix_(view.view(len(rows), -1), torch.from_numpy(mixing.matrix))


def _add_up_(table: Tensor, before: Tensor, matrix: Floats, trained: NDArray[np.bool_], combining: Combining) -> None:
    """Replace the rows in `table` [clients, items, ...] of those who take from others, by D [clients, clients]."""
    takers = np.flatnonzero(np.diag(matrix) < 1)
    givers = np.flatnonzero(matrix[takers].any(axis=0))
    if not len(takers) or not table.numel():
        return
    weights = torch.from_numpy(matrix[np.ix_(takers, givers)]).to(table.device)
    relative = weights / weights.amax(1, keepdim=True)
    relative = torch.where(relative < LEAST, 0.0, relative)  # whose squares are too small for a number
    counted = relative * torch.from_numpy(trained[givers]).to(relative)
    everyone = (counted.sum(1, keepdim=True).square() / counted.square().sum(1, keepdim=True)).nan_to_num()  # n
    width = math.prod(table.shape[2:])
    for block in blocks(len(table) * max(4 * width, 8 * len(table)), table.shape[1]):  # rows, and `times` below
        start = before[givers, block].reshape(len(givers), -1, width)
        step = table[givers, block].reshape(start.shape) - start
        movers = step.ne(0).any(-1).to(relative)
        share, squares = relative @ movers, relative.square() @ movers
        match combining:  # times / share
            case "submodel":
                factor = 1 / share
            case "sum":
                factor = share / squares
            case "rescaled":
                factor = (torch.maximum(everyone, share.square() / squares) / squares).sqrt()
        factor = torch.where(squares > 0, factor, 0.0)
        times = (relative.unsqueeze(-1) * factor.unsqueeze(1) * movers).to(step)  # [takers, givers, items]
        new = torch.einsum("cj,jid->cid", weights.to(step), start)
        new += torch.einsum("cji,jid->cid", times, step)
        table[takers, block] = new.reshape(len(takers), -1, *table.shape[2:])
