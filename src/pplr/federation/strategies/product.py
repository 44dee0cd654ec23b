"""Averages of adapters as products, re-factored by truncated singular value decomposition."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from pplr.errors import ConfigError
from pplr.federation.strategies.base import Aggregator, Cohort, Floats, Mixing, Strategy, averaging
from pplr.models.bank import mix_
from pplr.models.layout import Layout
from pplr.models.lora import FACTOR_A, FACTOR_B


class Product(Strategy):
    """Federated averaging of the adapters B A rather than of their factors: sum over c of n_c / sum(n) B_c A_c.

    mean(B) mean(A) is not mean(B A). The average of products has a rank of up to the sum of the clients' ranks; the best
    approximation of the adapter's rank in the Frobenius norm (Eckart and Young 1936) is kept, as in FlexLoRA (Bai et al.
    2024, arXiv:2402.11505). Parameters that are no adapters are averaged as under `fedavg`, to which the strategy turns
    where all clients have the same A (see `ffa`). It has no parameters.
    """

    kind: Literal["product"] = "product"

    @property
    def refactors(self) -> bool:
        """Return true."""
        return True

    @property
    def whole_rows(self) -> bool:
        """Return true: products are made where the rows are."""
        return True

    def aggregator(self, layout: Layout, initial_row: Tensor) -> Aggregator:
        """Return what re-factors.

        Raises:
            ConfigError: the layout shares no whole adapter.
        """
        return ProductMean(layout, "strategy.kind = 'product'")

    def mixing(self, cohort: Cohort) -> Mixing:
        """Return n_i / sum(n) in every row, the weights of the products."""
        return Mixing(averaging(cohort, cohort.sizes))


class ProductMean(Aggregator):
    """Mixes adapters' products by D, and everything else as it is."""

    def __init__(self, layout: Layout, wanted_by: str, apart: Collection[str] = ()) -> None:
        """Find the adapters among what `layout` shares; `wanted_by` begins the sentence where there are none.

        Parameters `apart` are left as they are.

        Raises:
            ConfigError: there are none.
        """
        self._layout = layout
        self._apart = frozenset(apart)
        shared = [spec.name for spec in layout.specs if not spec.private]
        stems = [name.removesuffix(FACTOR_A) for name in shared if name.endswith(FACTOR_A)]
        self._adapters = [stem for stem in stems if f"{stem}{FACTOR_B}" in shared]
        if not self._adapters:
            raise ConfigError(
                f"{wanted_by} mixes the products of adapters' factors, but this backbone shares no adapters. Set "
                "backbone.adapters = true (sequence), choose another backbone, or mix factors."
            )

    def combine_(self, rows: Tensor, mixing: Mixing, cohort: Cohort, received: Tensor | None = None) -> None:
        """Replace the rows; one that takes from nobody but itself keeps its factors."""
        if mixing.matrix is None:
            return
        matrix, count = mixing.matrix, len(rows)
        named = self._layout.views(rows)
        kinds, members = np.unique(matrix, axis=0, return_inverse=True)  # under `fedavg` all rows of D are one
        takers = [(client, kind) for client, kind in enumerate(members.reshape(-1)) if matrix[client, client] < 1]
        for stem in self._adapters:
            a, b = named.pop(f"{stem}{FACTOR_A}"), named.pop(f"{stem}{FACTOR_B}")
            found = {kind: _mixed(a, b, kinds[kind]) for kind in {kind for _, kind in takers}}
            for client, kind in takers:
                a[client], b[client] = found[kind]
        for view in (view for name, view in named.items() if name not in self._apart):
            mix_(view.view(count, -1), torch.from_numpy(matrix))


def _mixed(a: Tensor, b: Tensor, weights: Floats) -> tuple[Tensor, Tensor]:
    givers = np.flatnonzero(weights)
    return refactored([(b[i], a[i]) for i in givers], weights[givers])


def refactored(pairs: Sequence[tuple[Tensor, Tensor]], weights: Floats) -> tuple[Tensor, Tensor]:
    """Return A [rank, in] and B [out, rank] with B A the best approximation of sum of weights times B_i A_i.

    The product is never written out where the factors are thinner: QR of all factors side by side leaves a small core to
    decompose. A gets orthogonal rows, of the mean length of the rows of all A_i that are not zero, and B the rest: B is
    zero at the start of training, and steps depend on A's size. Signs are such that each row's largest entry is positive.
    """
    rank = pairs[0][1].shape[0]
    tall = torch.cat([weight * b.double() for (b, _), weight in zip(pairs, weights, strict=True)], dim=1)
    wide = torch.cat([a.double() for _, a in pairs], dim=0)
    if tall.shape[1] < min(tall.shape[0], wide.shape[1]):
        left, left_core = torch.linalg.qr(tall)
        right, right_core = torch.linalg.qr(wide.T)
        u, sizes, v = torch.linalg.svd(left_core @ right_core.T, full_matrices=False)
        u, v = left @ u, v @ right.T
    else:
        u, sizes, v = torch.linalg.svd(tall @ wide, full_matrices=False)
    u, sizes, v = u[:, :rank], sizes[:rank], v[:rank]
    signs = torch.gather(v, 1, v.abs().argmax(1, keepdim=True)).sign()
    length = torch.stack([a.double().square().sum() / max(1, int(a.any(1).sum())) for _, a in pairs]).mean().sqrt()
    length = length if length > 0 else torch.ones_like(length)
    a = v * signs * length
    b = u * signs.T * sizes / length
    return a.to(pairs[0][1]), b.to(pairs[0][0])
