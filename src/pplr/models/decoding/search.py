"""The rules of beam search: which beams go on, which hypotheses are kept, when a user is done.

They are those of transformers 5 `GenerationMixin._beam_search` with `early_stopping=False`, so that results are equal; but
each user moves at its own pace, and beams that cannot go on are dropped where transformers carries them along with a
score of -1e9.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pplr.models.decoding.token_tree import TokenTree

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Floats = NDArray[np.float32]

NOTHING = np.float32(-np.inf)


@dataclass
class Places:
    """Where beams stand in the users' token trees: arrays [users, beams].

    Attributes:
        log_probs: float32 sum over the beam's tokens; -inf where there is no beam.
        slots: slot of the last token; -1 where the model has not read it yet.
        parents, ranks: the last token is continuation number `ranks` of slot `parents`.
        tokens, nodes: last token, and its node of the trie.
        lengths: number of tokens.
    """

    log_probs: Floats
    slots: Ints
    parents: Ints
    ranks: Ints
    tokens: Ints
    nodes: Ints
    lengths: Ints

    @staticmethod
    def empty(users: int, beams: int) -> Places:
        """Return places without any beam."""
        zeros = np.zeros((users, beams), np.int64)
        return Places(
            np.full((users, beams), NOTHING),
            zeros.copy(),
            zeros.copy(),
            zeros.copy(),
            zeros - 1,
            zeros - 1,
            zeros.copy(),
        )

    def take(self, order: Ints) -> Places:
        """Return the places number `order` [users, n] of each user."""
        return Places(*(np.take_along_axis(array, order, axis=1) for array in self._arrays()))

    def joined(self, other: Places) -> Places:
        """Return the places of both, side by side."""
        pairs = zip(self._arrays(), other._arrays(), strict=True)
        return Places(*(np.concatenate(pair, axis=1) for pair in pairs))

    def rows(self, users: Ints) -> Places:
        """Return the places of some users."""
        return Places(*(array[users] for array in self._arrays()))

    def put(self, users: Ints, other: Places) -> None:
        """Overwrite the places of some users."""
        for mine, theirs in zip(self._arrays(), other._arrays(), strict=True):
            mine[users] = theirs

    def _arrays(self) -> tuple[NDArray[np.generic], ...]:
        return (self.log_probs, self.slots, self.parents, self.ranks, self.tokens, self.nodes, self.lengths)


class BeamSearch:
    """The state of the search of a batch of users.

    Attributes:
        running: [users, beams] beams that go on, best first.
        finished: [users, beams] the best hypotheses that have ended, best first.
        scores: [users, beams] scores of `finished`: log_probs / lengths ** length_penalty; -inf where there is none.
        done: [users] whether nothing can change any more.
    """

    def __init__(self, tree: TokenTree, users: int, beams: int, max_new_tokens: int, eos: int, penalty: float) -> None:
        self._tree = tree
        self._beams = beams
        self._max_new_tokens = max_new_tokens
        self._eos = eos
        self._penalty = penalty
        self.running = Places.empty(users, beams)
        self.running.log_probs[:, 0] = 0.0
        self.finished = Places.empty(users, beams)
        self.scores: Floats = np.full((users, beams), NOTHING)
        self.done: Bools = np.zeros(users, np.bool_)

    def advance(self) -> None:
        """Let every user take as many steps as the tokens read so far allow."""
        beams = self.running
        alive = beams.log_probs > NOTHING
        users = np.arange(len(alive))[:, None]
        read = self._tree.next_slots[users, beams.parents, beams.ranks]
        beams.slots = np.where(alive & (beams.lengths > 0), read, 0)
        while len(ready := np.flatnonzero(~self.done & (self.running.slots >= 0).all(axis=1))):
            self._step(ready)

    def _step(self, users: Ints) -> None:
        candidates = self._candidates(users)
        alive = candidates.log_probs > NOTHING
        ends = alive & ((candidates.tokens == self._eos) | (candidates.lengths >= self._max_new_tokens))
        self._finish(users, candidates, ends)
        order = np.argsort(~(alive & ~ends), axis=1, kind="stable")[:, : self._beams]
        running = candidates.take(order)
        running.log_probs[~np.take_along_axis(alive & ~ends, order, axis=1)] = NOTHING
        running.slots[running.log_probs == NOTHING] = 0
        self.running.put(users, running)
        best = running.log_probs[:, 0] / self._divisor(running.lengths[:, 0])
        worst = self.scores[users].min(axis=1)
        self.done[users] = ~(best > worst)

    def _candidates(self, users: Ints) -> Places:
        """Return the best 2 * beams continuations of the users' beams, best first."""
        beams, tree = self.running.rows(users), self._tree
        rows = users[:, None]
        log_probs = beams.log_probs[:, :, None] + tree.log_probs[rows, beams.slots]
        k = log_probs.shape[2]
        flat = log_probs.reshape(len(users), -1)
        order = np.argsort(-flat, axis=1, kind="stable")[:, : 2 * self._beams]
        beam, rank = order // k, order % k
        parent = np.take_along_axis(beams.slots, beam, axis=1)
        return Places(
            log_probs=np.take_along_axis(flat, order, axis=1),
            slots=tree.next_slots[rows, parent, rank],
            parents=parent,
            ranks=rank,
            tokens=tree.next_tokens[rows, parent, rank],
            nodes=tree.next_nodes[rows, parent, rank],
            lengths=np.take_along_axis(beams.lengths, beam, axis=1) + 1,
        )

    def _finish(self, users: Ints, candidates: Places, ends: Bools) -> None:
        """Keep those of the first `beams` candidates that end here, if they are among the best hypotheses so far."""
        ended = ends.copy()
        ended[:, self._beams :] = False
        scores = np.where(ended, candidates.log_probs / self._divisor(candidates.lengths), NOTHING)
        merged = np.concatenate([self.scores[users], scores], axis=1)
        order = np.argsort(-merged, axis=1, kind="stable")[:, : self._beams]
        self.scores[users] = np.take_along_axis(merged, order, axis=1)
        self.finished.put(users, self.finished.rows(users).joined(candidates).take(order))

    def _divisor(self, lengths: Ints) -> Floats:
        return (lengths.astype(np.float64) ** self._penalty).astype(np.float32)
