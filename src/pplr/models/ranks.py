"""Adapters of different ranks in rows of one width: a client with a lower rank fills the first components only.

The other components of its factors are zero, and stay so by themselves: where a row of A and the column of B that it
meets are both zero, so are their gradients, and AdamW leaves them where they are. A client that may have more, but whose
mix is of clients with less, would be caught by that: such components begin anew. Each component is averaged over those who
have it, as HeteroFL does with units (Diao et al. 2021, arXiv:2010.01264); with products re-factored by singular values,
whose first components are the best ones, it is FlexLoRA (Bai et al. 2024, arXiv:2402.11505).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pplr.errors import ConfigError
from pplr.models.layout import Layout
from pplr.models.lora import FACTOR_A, FACTOR_B

Floats = NDArray[np.float64]


def limit_rank_(layout: Layout, row: Tensor, rank: int) -> None:
    """Set all but the first `rank` components of every adapter in a row [P], or a shared part [S], to zero."""
    for name, view in layout.views(row).items():
        if name.endswith(FACTOR_A):
            view[rank:] = 0
        elif name.endswith(FACTOR_B):
            view[:, rank:] = 0


def check_ranks(layout: Layout, ranks: Mapping[str, int]) -> None:
    """Refuse ranks where there are no adapters.

    Raises:
        ConfigError: it is so.
    """
    if ranks and not any(spec.name.endswith(FACTOR_A) for spec in layout.specs):
        raise ConfigError(
            "backbone.adapter.ranks limits adapters, but this backbone trains none. Leave it out, or set "
            "backbone.adapters = true (sequence)."
        )


class RankLimits:
    """The ranks of all clients, where some have lower ones than the rows are made for.

    Attributes:
        given: the lower ranks, by client.
    """

    def __init__(self, layout: Layout, ranks: Mapping[str, int], clients: Sequence[str], initial_row: Tensor) -> None:
        """`ranks` are by client, `clients` the names of all rows in their order; others are nobody's.

        `initial_row` [P or S] is what all rows start from.
        """
        self.given = {name: rank for name, rank in ranks.items() if name in clients}
        self._layout = layout
        self._widest = max((spec.shape[0] for spec in layout.specs if spec.name.endswith(FACTOR_A)), default=0)
        given = [ranks.get(name, self._widest) for name in clients]
        self._ranks = given if any(rank < self._widest for rank in given) else []
        self._initial = initial_row

    def fit_(self, rows: Tensor, matrix: Floats | None = None) -> None:
        """Bring the rows of all clients [clients, P or S] to their ranks.

        What is beyond a client's rank is cut. Where the rows were mixed by `matrix` [clients, clients], each component is
        made a mean of those who have it, so that the zeros of the others do not count. One that nobody has given begins
        anew: it gets the A that all start from, which leaves the product as it is, and can be trained again.
        """
        for place, rank in enumerate(self._ranks):
            if matrix is not None:
                self._share_(rows[place], matrix[place])
            self._begin_anew(rows[place])
            limit_rank_(self._layout, rows[place], rank)

    def _share_(self, row: Tensor, weights: Floats) -> None:
        """Divide each component by the weight of those who have it."""
        have = np.array(self._ranks)[:, None] > np.arange(self._widest)
        shares = torch.from_numpy(weights @ have).to(row)
        shares[shares <= 0] = 1
        for name, view in self._layout.views(row).items():
            if name.endswith(FACTOR_A):
                view.div_(shares[: len(view), None])
            elif name.endswith(FACTOR_B):
                view.div_(shares[: view.shape[1]])

    def _begin_anew(self, row: Tensor) -> None:
        first, named = self._layout.views(self._initial), self._layout.views(row)
        for name, a in named.items():
            b = named.get(f"{name.removesuffix(FACTOR_A)}{FACTOR_B}") if name.endswith(FACTOR_A) else None
            if b is not None:
                empty = ~(a.any(1) | b.any(0))
                a[empty] = first[name][empty].to(a)
