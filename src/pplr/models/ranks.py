"""Adapters of different ranks in rows of one width: a client with a lower rank fills the first components only.

The other components of its factors are zero, and stay so by themselves: where a row of A and the column of B that it
meets are both zero, so are their gradients, and AdamW leaves them where they are. Zero-padding as in HetLoRA (Cho et al.
2024, arXiv:2401.06432); with products re-factored by singular values, whose first components are the best ones, it is
FlexLoRA (Bai et al. 2024, arXiv:2402.11505).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from pplr.errors import ConfigError, nearest
from pplr.models.layout import Layout
from pplr.models.lora import FACTOR_A, FACTOR_B


def cut_(layout: Layout, row: Tensor, rank: int) -> None:
    """Set all but the first `rank` components of every adapter in a row [P], or a shared part [S], to zero."""
    for name, view in layout.views(row).items():
        if name.endswith(FACTOR_A):
            view[rank:] = 0
        elif name.endswith(FACTOR_B):
            view[:, rank:] = 0


class RankLimits:
    """The ranks of those clients that have lower ones than the rows are made for."""

    def __init__(self, layout: Layout, ranks: Mapping[str, int], clients: Sequence[str]) -> None:
        """`ranks` are by client, `clients` the names of all of them in the order of their rows.

        Raises:
            ConfigError: a rank is given for a client that is not there, or the layout has no adapters.
        """
        for name in ranks:
            if name not in clients:
                raise ConfigError(
                    f"backbone.adapter.ranks names the client {name!r}, which is not there.{nearest(name, clients)} "
                    f"Clients: {', '.join(clients)}."
                )
        if ranks and not any(spec.name.endswith(FACTOR_A) for spec in layout.specs):
            raise ConfigError(
                "backbone.adapter.ranks limits adapters, but this backbone trains none. Leave it out, or set "
                "backbone.adapters = true (sequence)."
            )
        self._layout = layout
        self._places = {clients.index(name): rank for name, rank in ranks.items()}

    def cut_(self, rows: Tensor) -> None:
        """Cut every client's row of `rows` [clients, P or S] to its rank."""
        for place, rank in self._places.items():
            cut_(self._layout, rows[place], rank)
