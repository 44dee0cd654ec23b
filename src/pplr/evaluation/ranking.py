"""Where the true answers stand when the whole catalogue is ranked with the history masked.

What counts is in docs/evaluation.md. Everything runs in batches on tensors, on the device of the scores. Scores may tie: each target
is described by how many items are above it and how many share its score, so that metrics can take the expectation
over all orders of the tied items instead of trusting one of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pplr.data.dataset import Ints, Queries, Ragged
from pplr.errors import DataError, NumericalError
from pplr.evaluation.scorer import Scorer, scorer_name

Floats = NDArray[np.float64]

PAIR_ELEMENTS = 1 << 19
"""Most scores that are copied or compared at once, in elements: a few MB that stay in the processor's cache, which is
several times faster than whole batches, and bounds the memory of ranking whatever the number of targets."""


@dataclass(frozen=True)
class Ranks:
    """Places of all targets: one entry per pair of a query and one of its distinct targets.

    Attributes:
        rows: [pairs] the query of each pair, ascending.
        items: [pairs] the target's item code.
        higher: [pairs] unmasked items that score higher; infinity where the target itself is masked (unreachable).
        tied: [pairs] other unmasked items with the very same score.
        queries: number of queries, including those without targets.
    """

    rows: Ints
    items: Ints
    higher: Floats
    tied: Floats
    queries: int

    @property
    def expected(self) -> Floats:
        """[pairs] expected rank, from 1, when tied items are put in random order: 1 + higher + tied / 2."""
        return 1.0 + self.higher + self.tied / 2.0

    @property
    def targets(self) -> Ints:
        """[queries] number of distinct targets of each query."""
        return np.bincount(self.rows, minlength=self.queries).astype(np.int64)


def rank_targets(scorer: Scorer, queries: Queries, items: int, *, mask_history: bool = True, batch: int = 256) -> Ranks:
    """Rank all `items` for every query and return where its targets stand.

    Args:
        scorer: gives the scores; sees `batch` queries at a time, with their targets emptied.
        queries: histories and targets; repeated items in either count once.
        items: size of the catalogue.
        mask_history: leave items of the history out of the ranking, so that a target among them is unreachable.
        batch: queries per call of the scorer; changes memory and speed, never the result.

    Raises:
        NumericalError: a score is not finite, or the scores have the wrong shape.
        DataError: a history or target holds an item code outside 0 .. items - 1.
    """
    _check_codes(queries.histories, items, "history")
    _check_codes(queries.targets, items, "target")
    parts: list[tuple[Ints, Ints, Floats, Floats]] = []
    for start, part in zip(range(0, len(queries), batch), queries.batches(batch), strict=True):
        scores = finite_scores(scorer, part, items)
        for rows in row_chunks(len(part), items):
            place = np.arange(rows.start, rows.stop, dtype=np.int64)
            some, histories = scores[rows], part.histories.select(place)
            row, target = target_pairs(part.targets.select(place), items)
            higher, tied = _compare(mask_histories(some, histories) if mask_history else some, row, target)
            parts.append((row + start + rows.start, target, higher, tied))
    empty = (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0), np.zeros(0))
    row, target, higher, tied = (np.concatenate(column) for column in zip(empty, *parts, strict=True))
    return Ranks(row, target, higher, tied, len(queries))


def finite_scores(scorer: Scorer, queries: Queries, items: int) -> torch.Tensor:
    """Return `scorer.scores` of `queries`, whose targets are hidden from it: [len(queries), items], all finite.

    Raises:
        NumericalError: naming the scorer, how many scores are not finite, and the first user and item.
    """
    with torch.no_grad():
        scores = scorer.scores(queries.asked())
    if scores.shape != (len(queries), items) or not scores.is_floating_point():
        raise NumericalError(
            f"{scorer_name(scorer)} returned scores of shape {list(scores.shape)} and type {scores.dtype} for "
            f"{len(queries)} users and {items} items. It must return floating-point scores "
            f"[{len(queries)}, {items}]; correct its scores method."
        )
    if scores.numel() and not all(bool(torch.isfinite(bound)) for bound in torch.aminmax(scores)):
        wrong = ~torch.isfinite(scores)
        row, item = (int(place) for place in wrong.nonzero()[0])
        raise NumericalError(
            f"{scorer_name(scorer)} returned {int(wrong.sum())} scores that are not finite, out of {scores.numel()} in "
            f"a batch of {len(queries)} users; the first is {float(scores[row, item])} for user {queries.users[row]}, "
            f"item {item} (codes). Such scores cannot be ranked: look for a training loss that diverged, or for an "
            f"item without text."
        )
    return scores


def mask_histories(scores: torch.Tensor, histories: Ragged) -> torch.Tensor:
    """Return a copy of `scores` [queries, items] in which the items of each history are minus infinity."""
    rows = np.repeat(np.arange(len(histories), dtype=np.int64), histories.lengths)
    masked = scores.clone(memory_format=torch.contiguous_format)
    masked[_tensor(rows, scores.device), _tensor(histories.values, scores.device)] = -torch.inf
    return masked


def target_pairs(targets: Ragged, items: int) -> tuple[Ints, Ints]:
    """Return (row, item) of every distinct target: two arrays [pairs], sorted by row, then by item."""
    rows = np.repeat(np.arange(len(targets), dtype=np.int64), targets.lengths)
    pairs = np.unique(rows * items + targets.values)
    return pairs // items, pairs % items


def row_chunks(rows: int, items: int, elements: int = PAIR_ELEMENTS) -> Iterator[slice]:
    """Cut `rows` rows of `items` scores into consecutive slices of at most `elements` scores (at least one row)."""
    size = max(1, elements // max(1, items))
    return (slice(start, min(start + size, rows)) for start in range(0, rows, size))


def top_items(scores: torch.Tensor, histories: Ragged | None, k: int, nothing: float = -torch.inf) -> torch.Tensor:
    """Return the item codes of the `k` best items of every row, best first: [queries, min(k, items)].

    Args:
        scores: [queries, items], all finite.
        histories: items never to be recommended, one row per row of scores, or None.
        k: length of the lists, at least 1.
        nothing: items with this score or a lower one are not recommended.

    Equal scores are ordered by item code. Where fewer than `k` items are left the row ends in -1.

    Raises:
        NumericalError: a score is not finite.
    """
    if not bool(torch.isfinite(scores).all()):
        raise NumericalError(
            f"{int((~torch.isfinite(scores)).sum())} of {scores.numel()} scores are not finite, so no items can be "
            f"recommended from them. Look for a training loss that diverged."
        )
    if histories is not None:
        _check_codes(histories, scores.shape[1], "history")
        scores = mask_histories(scores, histories)
    k = min(k, scores.shape[1])
    bar = scores.topk(k, dim=1).values[:, -1:]
    above, level = scores > bar, scores == bar
    room = k - above.sum(dim=1, keepdim=True)
    chosen = above | (level & (level.cumsum(dim=1) <= room))
    codes = chosen.nonzero()[:, 1].reshape(len(scores), k)
    best, order = scores.gather(1, codes).sort(dim=1, descending=True, stable=True)
    return codes.gather(1, order).masked_fill(best <= nothing, -1)


def _compare(scores: torch.Tensor, rows: Ints, items: Ints) -> tuple[Floats, Floats]:
    """Return (higher, tied) of the pairs, counted in `scores` [queries, catalogue], masked ones being -infinity."""
    row, item = _tensor(rows, scores.device), _tensor(items, scores.device)
    own = scores[row, item]
    higher = torch.empty(len(rows), dtype=torch.float64, device=scores.device)
    tied = torch.empty_like(higher)
    for pairs in row_chunks(len(rows), scores.shape[1]):
        against, mine = scores[row[pairs]], own[pairs, None]
        higher[pairs] = (against > mine).sum(dim=1, dtype=torch.int32).double()
        tied[pairs] = (against == mine).sum(dim=1, dtype=torch.int32).double() - 1.0
    unreachable = own == -torch.inf
    higher[unreachable], tied[unreachable] = torch.inf, 0.0
    return higher.cpu().numpy(), tied.cpu().numpy()


def _check_codes(rows: Ragged, items: int, what: str) -> None:
    if len(rows.values) and (int(rows.values.min()) < 0 or int(rows.values.max()) >= items):
        wrong = rows.values[(rows.values < 0) | (rows.values >= items)][0]
        raise DataError(
            f"A {what} holds the item code {wrong}, but the catalogue has {items} items, with the codes 0 to "
            f"{items - 1}. Use the catalogue that the events were coded with."
        )


def _tensor(codes: Ints, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(codes)).to(device)
