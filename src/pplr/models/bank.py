"""The adapters of all clients as the rows of one matrix (docs/architecture.md)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BLOCK_BYTES = 64 * 2**20
"""Extra memory that mixing and Gram matrices may take, however large the bank is."""


class AdapterBank:
    """Theta: row c holds what client c shares with the others.

    Attributes:
        clients: client names, one per row.
        rows: [clients, parameters] float32, contiguous.
    """

    def __init__(self, clients: Sequence[str], rows: Tensor) -> None:
        if rows.dim() != 2 or len(clients) != rows.shape[0]:
            raise ValueError(
                f"A bank needs one row per client: {len(clients)} names, rows of shape {tuple(rows.shape)}."
            )
        self.clients = tuple(clients)
        self.rows = rows.contiguous()
        self._index = {name: index for index, name in enumerate(self.clients)}

    @classmethod
    def of_equal_rows(cls, clients: Sequence[str], row: Tensor) -> AdapterBank:
        """Return a bank in which every client has a copy of `row` [parameters]."""
        return cls(clients, row.detach().repeat(len(clients), 1))

    def __len__(self) -> int:
        return len(self.clients)

    def index(self, client: str) -> int:
        """Return the row number of a client."""
        return self._index[client]

    def row(self, client: str) -> Tensor:
        """Return a view [parameters] of the client's row."""
        return self.rows[self._index[client]]

    def mix_(self, mixing: Tensor) -> None:
        """Replace the rows by `mixing` [clients, clients] @ rows.

        Every new row is made from old rows only: the columns are taken in blocks, and a block is written back after
        all of its products are known.
        """
        mix_(self.rows, mixing)


def squared_distances(products: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the squared distances [n, n] between vectors of which `products` [n, n] is the Gram matrix."""
    lengths = np.diag(products)
    return np.asarray(np.clip(lengths[:, None] + lengths[None, :] - 2 * products, 0.0, None), dtype=np.float64)


def gram(rows: Tensor, reference: Tensor | None = None) -> Tensor:
    """Return the Gram matrix [n, n] float64 of `rows` [n, parameters], or of `rows - reference`, block by block.

    `reference` [n or 1, parameters] may be one row for all.
    """
    count, width = rows.shape
    total = torch.zeros(count, count, dtype=torch.float64, device=rows.device)
    for block in blocks(count, width):
        part = rows[:, block] if reference is None else rows[:, block] - reference[:, block]
        total += part @ part.T
    return total


def mix_(rows: Tensor, mixing: Tensor) -> None:
    """Replace `rows` [n, parameters] by `mixing` [n, n] @ rows, block by block, each from old values only."""
    count, width = rows.shape
    if mixing.shape != (count, count):
        raise ValueError(
            f"A bank of {count} rows needs a mixing matrix of [{count}, {count}], got {tuple(mixing.shape)}."
        )
    weights = mixing.to(rows)
    for block in blocks(count, width):
        rows[:, block] = weights @ rows[:, block]


def blocks(count: int, width: int) -> list[slice]:
    """Return pieces of `width` columns, of which `count` rows take `BLOCK_BYTES` at most."""
    step = max(1, BLOCK_BYTES // (4 * max(count, 1)))
    return [slice(start, min(start + step, width)) for start in range(0, width, step)]
