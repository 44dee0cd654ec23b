"""The tokens that a model has read behind each user's prompt, and what it expects behind each of them.

Slot 0 is the prompt, slot j the j-th token read behind it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pplr.models.decoding.continuations import Continuations

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]

FIRST_ROOM = 32


class TokenTree:
    """One tree of tokens per user, as arrays [users, slots] and [users, slots, k].

    Attributes:
        size: slots in use, the same for each user (some are filling).
        tokens, parents: [users, slots] each slot's token, and the slot that it continues.
        log_probs, next_tokens, next_nodes: [users, slots, k] the slot's best continuations, best first.
        next_slots: [users, slots, k] the slot of a continuation that has been read, else -1.
    """

    def __init__(self, users: int, k: int) -> None:
        self.size = 1
        self.tokens: Ints = np.full((users, FIRST_ROOM), -1)
        self.parents: Ints = np.full((users, FIRST_ROOM), -1)
        self.log_probs: Floats = np.full((users, FIRST_ROOM, k), -np.inf, np.float32)
        self.next_tokens: Ints = np.full((users, FIRST_ROOM, k), -1)
        self.next_nodes: Ints = np.full((users, FIRST_ROOM, k), -1)
        self.next_slots: Ints = np.full((users, FIRST_ROOM, k), -1)

    def append(self, width: int) -> None:
        """Take `width` more slots for each user."""
        self.size += width
        room = self.tokens.shape[1]
        if self.size <= room:
            return
        more = max(self.size, 2 * room) - room
        for name in ("tokens", "parents", "log_probs", "next_tokens", "next_nodes", "next_slots"):
            old = getattr(self, name)
            fill = -np.inf if name == "log_probs" else -1
            padding = ((0, 0), (0, more)) + ((0, 0),) * (old.ndim - 2)
            setattr(self, name, np.pad(old, padding, constant_values=fill))

    def link(self, users: Ints, slots: Ints, tokens: Ints, parents: Ints, ranks: Ints) -> None:
        """Say that `slots` [n] hold `tokens`, and are the continuations number `ranks` of the slots `parents`."""
        self.tokens[users, slots] = tokens
        self.parents[users, slots] = parents
        self.next_slots[users, parents, ranks] = slots

    def expect(self, users: Ints, slots: Ints, continuations: Continuations) -> None:
        """Write the continuations of `slots` [n]."""
        self.log_probs[users, slots] = continuations.log_probs
        self.next_tokens[users, slots] = continuations.tokens
        self.next_nodes[users, slots] = continuations.nodes

    def path(self, user: int, slot: int) -> list[int]:
        """Return the tokens from the prompt to `slot`."""
        tokens: list[int] = []
        while slot > 0:
            tokens.append(int(self.tokens[user, slot]))
            slot = int(self.parents[user, slot])
        return tokens[::-1]
