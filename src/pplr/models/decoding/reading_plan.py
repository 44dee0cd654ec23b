"""Which tokens the model reads next.

A search can go on once the model has read the last token of each of a user's beams. Beyond those, a beam that has
entered a stretch of the trie without branches will need every token of it, unless it is overtaken: these are read ahead, in
the same call.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pplr.models.decoding.search import NOTHING, BeamSearch
from pplr.models.decoding.token_tree import TokenTree
from pplr.models.decoding.trie import TitleTrie

Ints = NDArray[np.int64]

CALL_COST = 48
"""What one call of the model costs whatever it reads, in tokens: weights are fetched once per call."""


@dataclass(frozen=True)
class Plan:
    """Tokens to read, arrays [n], in an order in which parents come first.

    Attributes:
        users: whose token it is.
        columns: its number among this user's tokens of the plan, from 0.
        tokens, nodes, depths: the token, its node of the trie, and its distance from the prompt.
        parents, ranks: it is continuation number `ranks` of slot `parents`.
    """

    users: Ints
    columns: Ints
    tokens: Ints
    nodes: Ints
    depths: Ints
    parents: Ints
    ranks: Ints

    def cut(self, width: int) -> Plan:
        """Return the plan with at most `width` tokens per user."""
        kept = self.columns < width
        return Plan(*(getattr(self, name)[kept] for name in self.__dataclass_fields__))


def plan_reading(search: BeamSearch, tree: TokenTree, trie: TitleTrie | None, max_new_tokens: int) -> Plan:
    """Return all tokens that are worth reading now, the most urgent of each user first."""
    beams = search.running
    alive = (beams.log_probs > NOTHING) & ~search.done[:, None]
    users = np.broadcast_to(np.arange(len(alive))[:, None], alive.shape)
    slots, parents, ranks, tokens, nodes, depths = (
        beams.slots, beams.parents, beams.ranks, beams.tokens, beams.nodes, beams.lengths,
    )  # fmt: skip
    planned = np.zeros(len(alive), np.int64)
    levels = []
    while alive.any():
        new = alive & (slots < 0)
        column = np.cumsum(new, axis=1) - 1 + planned[:, None]
        levels.append([array[new] for array in (users, column, tokens, nodes, depths, parents, ranks)])
        planned = planned + new.sum(axis=1)
        if trie is None:
            break
        parents = np.where(new, tree.size + column, slots)
        slots = np.where(new, -1, tree.next_slots[users, np.where(new, 0, slots), 0])
        nodes = trie.only_child[nodes]
        tokens, ranks, depths = trie.tokens[nodes], np.zeros_like(nodes), depths + 1
        alive = alive & (nodes >= 0) & (depths < max_new_tokens)
    return Plan(*(np.concatenate(parts) for parts in zip(*levels, strict=True)))


def best_width(plan: Plan, rows: int, most: int) -> int:
    """Return how many tokens per user to read in one call, at most `most`.

    A call reads `rows` x width tokens, filling included. The width is the one at which a useful token costs least.
    """
    demand = np.bincount(plan.columns)
    useful = np.cumsum(demand)[:most]
    widths = np.arange(1, len(useful) + 1)
    return int(widths[np.argmax(useful / (CALL_COST + rows * widths))])
