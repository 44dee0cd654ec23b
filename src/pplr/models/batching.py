"""Batches of similar lengths: a language model's time goes by padded tokens, not by examples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pplr.data.dataset import Ints


def sorted_batches(lengths: Ints, batch_tokens: int, max_examples: int | None = None) -> list[Ints]:
    """Return index arrays that cover all examples, longest first, each at most `batch_tokens` when padded.

    An example longer than `batch_tokens` is a batch of its own.
    """
    order = np.argsort(-lengths, kind="stable").astype(np.int64)
    return _cut(order, lengths, batch_tokens, max_examples)


def shuffled_batches(
    lengths: Ints, batch_tokens: int, max_examples: int | None, generator: np.random.Generator, pool: int = 32
) -> list[Ints]:
    """Return batches of similar lengths in random order, for one epoch.

    The examples are shuffled, then sorted by length within pools of about `pool` batches, cut, and the batches
    shuffled: which examples meet in a batch changes from epoch to epoch.
    """
    order = generator.permutation(len(lengths)).astype(np.int64)
    mean = max(float(lengths.mean()), 1.0) if len(lengths) else 1.0
    per_batch = max(1, min(int(batch_tokens / mean), max_examples or len(lengths)))
    batches: list[Ints] = []
    for start in range(0, len(order), per_batch * pool):
        part = order[start : start + per_batch * pool]
        part = part[np.argsort(-lengths[part], kind="stable")]
        batches.extend(_cut(part, lengths, batch_tokens, max_examples))
    return [batches[i] for i in generator.permutation(len(batches))]


def padded(rows: Sequence[Sequence[int] | Ints], device: torch.device, *, left: bool = False) -> tuple[Tensor, Tensor]:
    """Return ids and attention mask [rows, longest] int64, padded with id 0 on the right (or `left`)."""
    width = max((len(row) for row in rows), default=0)
    ids = np.zeros((len(rows), width), np.int64)
    mask = np.zeros((len(rows), width), np.int64)
    for i, row in enumerate(rows):
        place = slice(width - len(row), width) if left else slice(0, len(row))
        ids[i, place], mask[i, place] = row, 1
    return torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)


def _cut(order: Ints, lengths: Ints, batch_tokens: int, max_examples: int | None) -> list[Ints]:
    batches, start = [], 0
    while start < len(order):
        longest = max(int(lengths[order[start]]), 1)
        size = max(1, batch_tokens // longest)
        if max_examples is not None:
            size = min(size, max_examples)
        batches.append(order[start : start + size])
        start += size
    return batches
