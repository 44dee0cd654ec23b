"""Training examples that pair a history with its next item."""

from __future__ import annotations

from typing import Literal

import numpy as np

from pplr.data.dataset import Ints, Ragged


def next_items(training: Ragged, keep: int, which: Literal["last", "all"]) -> tuple[Ragged, Ints]:
    """Return (history, next item) pairs: histories of at most `keep` items, and targets [pairs]."""
    histories, targets = [], []
    for row in training:
        first = 1 if which == "all" else max(len(row) - 1, 1)
        for position in range(first, len(row)):
            histories.append(row[max(0, position - keep) : position])
            targets.append(int(row[position]))
    return Ragged.from_rows(histories), np.asarray(targets, np.int64)
