"""The token trie of a catalogue's titles, as flat arrays.

Node 0 is the root. Nodes are numbered level by level, and within a level by (parent, token), so that the children of a
node are neighbours and one array of offsets describes the whole trie. A title ends with the end-of-sequence token:
the node of that token is a leaf, and a leaf knows the items that carry its title.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pplr.errors import DataError

Ints = NDArray[np.int64]


class TitleTrie:
    """Which token may follow a beginning of a title, and which items a complete title names.

    Attributes:
        eos: the token that ends every title.
        tokens: [nodes] token that leads to each node; -1 at the root.
        parents: [nodes] parent of each node; -1 at the root.
        depths: [nodes] number of tokens from the root.
        offsets: [nodes + 1] the children of node v are the nodes `offsets[v]` to `offsets[v + 1]`, by rising token.
        only_child: [nodes] the child of a node with exactly one child that is not a leaf; -1 for all others.
        item_offsets: [nodes + 1] the items of node v are `item_codes[item_offsets[v]:item_offsets[v + 1]]`; only leaves
            have any.
        item_codes: [items] item codes, by leaf, rising within a leaf: items with the same tokens share a leaf.
    """

    def __init__(self, titles: Sequence[Sequence[int]], eos: int) -> None:
        """Build the trie of `titles`: item i has the token ids `titles[i]`, without `eos`.

        Raises:
            DataError: there is no title, or a title is empty, holds `eos`, or holds a negative token.
        """
        lengths = np.fromiter((len(title) for title in titles), dtype=np.int64, count=len(titles))
        flat = np.fromiter((token for title in titles for token in title), dtype=np.int64, count=int(lengths.sum()))
        _check(lengths, flat, eos)
        starts = np.cumsum(lengths) - lengths
        self.eos = eos
        node = np.zeros(len(lengths), np.int64)
        tokens, parents, depths = [np.full(1, -1)], [np.full(1, -1)], [np.zeros(1, np.int64)]
        count, ongoing, base = 1, np.arange(len(lengths)), int(max(flat.max(), eos)) + 1
        for depth in range(int(lengths.max()) + 1):
            ends = lengths[ongoing] == depth
            here = flat[np.where(ends, 0, starts[ongoing] + depth)]
            keys, inverse = np.unique(node[ongoing] * base + np.where(ends, eos, here), return_inverse=True)
            node[ongoing] = count + inverse
            tokens.append(keys % base)
            parents.append(keys // base)
            depths.append(np.full(len(keys), depth + 1))
            count += len(keys)
            ongoing = ongoing[~ends]
        self.tokens: Ints = np.concatenate(tokens)
        self.parents: Ints = np.concatenate(parents)
        self.depths: Ints = np.concatenate(depths)
        self.offsets: Ints = 1 + np.searchsorted(self.parents[1:], np.arange(count + 1))
        self.only_child: Ints = self._only_children()
        self.item_codes: Ints = np.argsort(node, kind="stable")
        self.item_offsets: Ints = np.searchsorted(node[self.item_codes], np.arange(count + 1))

    def __len__(self) -> int:
        """Return the number of nodes, the root included."""
        return len(self.tokens)

    def items(self, node: int) -> Ints:
        """Return the codes of the items whose title ends at `node`; empty where none does."""
        return self.item_codes[self.item_offsets[node] : self.item_offsets[node + 1]]

    def children(self, nodes: Ints) -> tuple[Ints, NDArray[np.bool_]]:
        """Return the children of `nodes` (any shape) as [*nodes.shape, most children], and which entries are children.

        Entries that are not children hold node 0.
        """
        first, counts = self.offsets[nodes], self.offsets[nodes + 1] - self.offsets[nodes]
        steps = np.arange(int(counts.max(initial=0)))
        exist = steps < counts[..., None]
        return np.where(exist, first[..., None] + steps, 0), exist

    def _only_children(self) -> Ints:
        first = self.offsets[:-1]
        single = self.offsets[1:] - first == 1
        child = np.where(single, first, 0)
        return np.where(single & (self.tokens[child] != self.eos), child, -1)


def _check(lengths: Ints, flat: Ints, eos: int) -> None:
    if not len(lengths):
        raise DataError("A trie needs titles, and there is none. Give at least one item.")
    if (lengths == 0).any():
        raise DataError(
            f"The title of item {int(np.flatnonzero(lengths == 0)[0])} has no token. Give every item a title with text."
        )
    if eos < 0:
        raise DataError(f"The end-of-sequence token is {eos}; it must be 0 or more. Take the tokenizer's eos_token_id.")
    wrong = np.flatnonzero((flat < 0) | (flat == eos))
    if len(wrong):
        item = int(np.searchsorted(np.cumsum(lengths), wrong[0], side="right"))
        raise DataError(
            f"The title of item {item} holds the token {int(flat[wrong[0]])}; tokens must be 0 or more, and not the "
            f"end-of-sequence token {eos}. Tokenize titles without special tokens."
        )
