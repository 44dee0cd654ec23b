"""The speed of the machine at what it does best: a matrix product."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Rate:
    """Floating-point operations, by two clocks.

    Attributes:
        per_second: of wall time, with all of torch's threads.
        per_cpu_second: of the threads' CPU time, which other programs on the machine do not lengthen.
    """

    per_second: float
    per_cpu_second: float


def matmul_rate(size: int = 1024, products: int = 20, dtype: torch.dtype = torch.float32) -> Rate:
    """Return the best rates of many products of [size, size] matrices, 2 size^3 operations each.

    Each takes some milliseconds, so that on a busy machine a few of many are left alone.
    """
    a, b, out = (torch.rand(size, size).to(dtype) for _ in range(3))
    torch.mm(a, b, out=out)
    rates = []
    for _ in range(products):
        wall, cpu = time.perf_counter(), time.process_time()
        torch.mm(a, b, out=out)
        seconds, cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
        rates.append(Rate(2 * size**3 / seconds, 2 * size**3 / max(cpu_seconds, 1e-9)))
    return best(rates)


def bfloat16_times() -> float:
    """Return how many times as fast as in float32 matrix products are in bfloat16, below 1 where they are slower."""
    full, rounded = (matmul_rate(512, 10, dtype) for dtype in (torch.float32, torch.bfloat16))
    return rounded.per_cpu_second / full.per_cpu_second


def best(rates: Sequence[Rate]) -> Rate:
    """Return the highest of each rate."""
    return Rate(max(rate.per_second for rate in rates), max(rate.per_cpu_second for rate in rates))
