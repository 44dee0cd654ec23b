"""A language model that reads a tree of continuations of a prompt, several tokens of it at a time.

All continuations of one user are tokens of one sequence: prompt, then the tree's tokens in the order in which they were
read. A mask lets each token see its prompt and its own ancestors, and its position is its depth, so its output equals
that of the plain sequence from the prompt to it. The prompt's keys and values exist once per user, and nothing is
ever reordered (the idea of SpecInfer's tree attention, Miao et al., arXiv:2305.09781).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pplr.errors import DataError
from pplr.models.causal import Sight, as_causal

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

WORTH_SHARING = 64
"""Reading the common start of the prompts by itself takes a call more, which costs about as much as this many tokens."""


class TreeReader:
    """The model, and what it has read so far for a batch of users.

    Attributes:
        users: [rows] the user of each row of the cache.
        columns: number of tokens read behind the prompt, the same for each user (some are filling).
    """

    def __init__(self, model: Any, input_ids: Tensor, attention_mask: Tensor, room: int) -> None:
        """Check the prompts, [users, prompt] padded on the left, and leave room for `room` tokens behind them.

        Raises:
            DataError: a prompt is empty or not padded on the left.
            ModelError: the model's kind of attention cannot take a mask of its own.
        """
        seen = attention_mask.to(torch.bool)
        if seen.shape != input_ids.shape or not bool(seen[:, -1:].all()) or bool((seen[:, :-1] > seen[:, 1:]).any()):
            raise DataError(
                f"Prompts of shape {tuple(input_ids.shape)} came with an attention mask of shape {tuple(seen.shape)} "
                "that is not empty padding on the left and text on the right. Pad prompts on the left, with at least "
                "one token each."
            )
        self._reading = as_causal(model).reading(room)
        self._room = room
        self._input_ids = input_ids
        self._seen = seen
        self._lengths: Ints = seen.sum(1).cpu().numpy()
        self._visible: Bools = np.zeros((len(input_ids), 0, 0), np.bool_)
        self._positions: Ints = np.zeros((len(input_ids), 0), np.int64)
        self.users: Ints = np.arange(len(input_ids))
        self.columns = 0

    def read_prompts(self) -> Tensor:
        """Return the logits [users, vocabulary] behind the prompts; once, before anything else."""
        return self._reading.read(self._input_ids, _positions(self._seen), Sight(self._seen), 1)[:, -1]

    def read_prompts_with_common_start(self) -> Tensor:
        """Do the same as `read_prompts`, but read the tokens that all prompts begin with once.

        Only where all rows run the same weights. Prompts then lie in the cache as start, padding, rest.
        """
        users, width = self._input_ids.shape
        common = _common_start(self._input_ids, self._seen)
        if common * (users - 1) < WORTH_SHARING:
            return self.read_prompts()
        longest = int(self._lengths.max())
        start = self._input_ids[:1, width - int(self._lengths[0]) :][:, :common]
        everything = torch.ones_like(start, dtype=torch.bool)
        self._reading.read(start, _positions(everything), Sight(everything), 1)
        rest = width - longest + common
        self._reading.spread(users, longest - common + self._room)
        later = torch.arange(rest, width, device=self._seen.device) >= width - self._seen.sum(1, keepdim=True) + common
        self._seen = torch.cat([torch.ones_like(later[:, :1]).expand(-1, common), later], dim=1)
        positions = _positions(self._seen)
        full = _causal(self._seen, common)
        sight = Sight(full=full, keys=positions)
        return self._reading.read(self._input_ids[:, rest:], positions[:, common:], sight, 1)[:, -1]

    def read(self, tokens: Ints, parents: Ints, depths: Ints, wanted: Bools) -> Tensor:
        """Read [rows, width] more tokens; return the logits [wanted.sum(), vocabulary] behind those that are `wanted`.

        `parents` are columns (0 is the prompt, 1 the first token read), which may be columns of this very call further
        left; `depths` count from 1 for the prompt's children. Tokens that are not wanted are filling that nobody sees.
        """
        device = self._input_ids.device
        before, positions = self.columns, np.where(wanted, self._lengths[self.users][:, None] + depths - 1, 0)
        self._grow(parents, positions, wanted)
        own = torch.from_numpy(self._visible[self.users, before : self.columns, : self.columns]).to(device)
        seen = self._seen[torch.from_numpy(self.users).to(device)]
        new = torch.from_numpy(positions).to(device)
        kept = torch.from_numpy(wanted).to(device)
        full = torch.cat([seen[:, None, :] & kept[:, :, None], own], dim=2)[:, None]
        tree_positions = torch.from_numpy(self._positions[self.users, : self.columns]).to(device)
        sight = Sight(full=full, keys=torch.cat([_positions(seen), tree_positions], dim=1))
        return self._reading.read(torch.from_numpy(tokens).to(device), new, sight, kept)

    def keep(self, users: Ints) -> None:
        """Drop the rows of all users but `users`; rows may change places. Where none goes, nothing is said to the cache."""
        wanted = np.isin(self.users, users)
        if wanted.all():
            return
        rows = int(wanted.sum())
        holes, fillers = np.flatnonzero(~wanted[:rows]), rows + np.flatnonzero(wanted[rows:])
        moves = [(int(source), int(target)) for source, target in zip(fillers, holes, strict=True)]
        self._reading.keep(moves, rows)
        self.users = self.users.copy()
        self.users[holes] = self.users[fillers]
        self.users = self.users[:rows]

    def _grow(self, parents: Ints, positions: Ints, wanted: Bools) -> None:
        """Write down what the new tokens see of the tree, and where they stand."""
        before, width = self.columns, parents.shape[1]
        self.columns += width
        have = self._visible.shape[1]
        if self.columns > have:
            more = max(self.columns, 2 * have) - have
            self._visible = np.pad(self._visible, ((0, 0), (0, more), (0, more)))
            self._positions = np.pad(self._positions, ((0, 0), (0, more)))
        self._positions[self.users, before : self.columns] = positions
        for column in range(width):
            parent = parents[:, column] - 1
            below = ((parent >= 0) & wanted[:, column])[:, None]
            self._visible[self.users, before + column] = self._visible[self.users, parent] & below
            self._visible[self.users, before + column, before + column] = True


def _positions(seen: Tensor) -> Tensor:
    return (seen.long().cumsum(1) - 1).clamp(min=0)


def _causal(seen: Tensor, start: int) -> Tensor:
    """Return what the tokens from `start` on see, [rows, 1, tokens - start, tokens]: tokens up to their own."""
    index = torch.arange(seen.shape[1], device=seen.device)
    own = index[start:, None] == index
    return ((index <= index[start:, None]) & seen[:, None, :] | own)[:, None]


def _common_start(input_ids: Tensor, seen: Tensor) -> int:
    """Return how many tokens all prompts begin with, at most all but the last of the shortest prompt."""
    shortest, width = int(seen.sum(1).min()), input_ids.shape[1]
    starts = width - seen.sum(1, keepdim=True) + torch.arange(shortest - 1, device=seen.device)
    rows = input_ids.gather(1, starts)
    differ = (rows != rows[:1]).any(0).nonzero()
    return int(differ[0]) if len(differ) else shortest - 1
