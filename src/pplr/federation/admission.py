"""Which updates may change the others' rows: checked one by one, and against the median of their round.

A client is another organisation's machine. What it sends is never trusted to be well formed, finite, or meant well.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch

from pplr.federation.messages import TrainTask, Update

LARGEST_LOSS = 100.0
"""Nats per target token; e**-100 of probability is no honest loss."""
LONGEST_ROW = 1e12
"""Euclidean; products of such rows are far from the ends of float32, and no trained row comes near it."""
LEAST_COHORT = 3
"""With fewer updates there is no median to compare with."""


def flaw(update: Update, task: TrainTask) -> str | None:
    """Return why an update cannot be the answer to a task, or None."""
    if update.client != task.client:
        return f"it says that it is from {update.client!r}"
    if update.round != task.round:
        return f"it belongs to round {update.round}"
    if update.row.dtype != torch.float32 or update.row.shape != task.row.shape:
        shape = "x".join(map(str, update.row.shape))
        return f"its row is {shape} {str(update.row.dtype).removeprefix('torch.')}, not {len(task.row)} float32"
    if not bool(torch.isfinite(update.row).all()):
        return "its row has a number that is not finite"
    if float(torch.linalg.vector_norm(update.row.double())) > LONGEST_ROW:
        return "its row is long beyond measure"
    if update.targets < 0 or update.tokens < 0:
        return f"it counts {min(update.targets, update.tokens)} tokens"
    if update.targets and not 0 <= update.loss <= LARGEST_LOSS:  # also where it is not a number
        return f"its loss is {update.loss}"
    return None


def length(update: Update, task: TrainTask) -> float:
    """Return the Euclidean length of what an update changes."""
    return float(torch.linalg.vector_norm(update.row.double() - task.row.to(update.row.device).double()))


def implausible(losses: Mapping[str, float], bound: float) -> dict[str, str]:
    """Return client -> why, for losses above `bound` times the median of `losses`, or below the median over `bound`."""
    median = float(np.median(list(losses.values()))) if len(losses) >= LEAST_COHORT else 0.0
    return {
        client: f"its loss is {value:.4g}, the median is {median:.4g}, and {bound:g} times more or less is the bound"
        for client, value in losses.items()
        if median > 0 and not median / bound <= value <= bound * median
    }


def shortening(lengths: Mapping[str, float], bound: float) -> dict[str, float]:
    """Return client -> factor below 1, for updates that are to be shortened to `bound` times the median of `lengths`."""
    median = float(np.median(list(lengths.values()))) if len(lengths) >= LEAST_COHORT else math.inf
    return {
        client: bound * median / value for client, value in lengths.items() if median > 0 and value > bound * median
    }


def outlying(lengths: Mapping[str, float], bound: float) -> dict[str, str]:
    """Return client -> why, for updates longer than `bound` times the median of `lengths`."""
    median = float(np.median(list(lengths.values()))) if len(lengths) >= LEAST_COHORT else math.inf
    return {
        client: f"its update is {value / median:.1f} times as long as the median, and {bound:g} times is the bound"
        for client, value in lengths.items()
        if median > 0 and value > bound * median
    }
