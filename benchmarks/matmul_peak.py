"""The speed of the machine at what it does best: a big float32 matrix product."""

from __future__ import annotations

import time

import torch


def matmul_flops_per_second(size: int = 2048, products: int = 4) -> float:
    """Return the best rate of a few products of [size, size] float32 matrices, 2 size^3 operations each."""
    a, b, out = torch.rand(size, size), torch.rand(size, size), torch.empty(size, size)
    torch.mm(a, b, out=out)
    best = 0.0
    for _ in range(products):
        started = time.perf_counter()
        torch.mm(a, b, out=out)
        best = max(best, 2 * size**3 / (time.perf_counter() - started))
    return best
