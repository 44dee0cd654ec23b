"""Reading with the catalogue at hand: it is public, so an attacker knows that a list consists of its items.

Of all lists of items that have as many tokens as were received, the likeliest is found by dynamic programming: the sum
of the tokens' log-probabilities and of the items' (how popular each is in public histories).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pplr.audit.answer import Answer
from pplr.audit.texts import Writing

FLOOR = -20.0
"""Least log-probability of a token: one that was misread for certain must not outweigh a title's other tokens."""


class CatalogueReader:
    """Finds the likeliest list of items."""

    def __init__(self, writing: Writing, tokens: Tensor, popularity: Tensor) -> None:
        """Prepare the catalogue's items.

        Args:
            writing: how lists are written.
            tokens: [named] ids that scores are about, ascending.
            popularity: [items] how often each item is in public histories.
        """
        self._writing = writing
        self._log_popularity = ((popularity + 1) / (popularity + 1).sum()).log()
        self._groups = _by_length(writing, tokens)

    def answer(self, scores: Tensor, recovered: list[int]) -> Answer:
        """Return the likeliest list for log-probabilities [length, named] of its tokens.

        Where no list of items has that length the answer is what was `recovered` token by token.
        """
        separator = len(self._writing.separator)
        end = len(scores) + separator  # as if a separator followed the last item too
        known = torch.cat([scores.clamp(min=FLOOR), torch.full((len(scores), 1), FLOOR)], dim=1)
        known = torch.cat([known, known.new_zeros(separator, known.shape[1])])
        value, step = self._best_items(known)
        best = np.full(end + 1, -np.inf)
        best[0], came = 0.0, np.full(end + 1, -1)
        for start in range(end):
            if best[start] == -np.inf:
                continue
            for length, values in value.items():
                if start < len(values) and best[start] + values[start] > best[start + length]:
                    best[start + length], came[start + length] = best[start] + values[start], start
        if best[end] == -np.inf:
            return Answer(recovered)
        items: list[int] = []
        place = end
        while place:
            items.append(int(step[place - came[place]][came[place]]))
            place = int(came[place])
        return self._written(items[::-1])

    def _best_items(self, known: Tensor) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray]]:
        """Return, per length, the value of the best item at each start, and which item it is."""
        values, items = {}, {}
        for length, (codes, columns) in self._groups.items():
            starts = len(known) - length + 1
            if starts < 1:
                continue
            total = self._log_popularity[codes].expand(starts, len(codes)).clone()
            for i in range(length):
                total += known[i : i + starts, columns[:, i]]
            best, which = total.max(dim=1)
            values[length], items[length] = best.double().numpy(), codes[which].numpy()
        return values, items

    def _written(self, items: list[int]) -> Answer:
        ids: list[int] = []
        for item in items:
            ids += [*(self._writing.separator if ids else []), *self._writing.pieces[item]]
        return Answer(ids, tuple(items))


def _by_length(writing: Writing, tokens: Tensor) -> dict[int, tuple[Tensor, Tensor]]:
    """Return, per length, the items' codes [n], and [n, length] which of `tokens` they consist of.

    Items have a separator behind them; what is not among the tokens is numbered as one more.
    """
    number = {token: i for i, token in enumerate(tokens.tolist())}
    groups: dict[int, tuple[list[int], list[list[int]]]] = {}
    for item, piece in enumerate(writing.pieces):
        written = [*piece, *writing.separator]
        if written:
            codes, columns = groups.setdefault(len(written), ([], []))
            codes.append(item)
            columns.append([number.get(token, len(tokens)) for token in written])
    return {length: (torch.tensor(codes), torch.tensor(columns)) for length, (codes, columns) in groups.items()}
