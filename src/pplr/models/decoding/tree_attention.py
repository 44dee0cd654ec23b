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

from pplr.errors import DataError, ModelError
from pplr.models.decoding.cache import RoomyCache

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

KINDS = {"full_attention", "sliding_attention"}


class TreeReader:
    """The model, and what it has read so far for a batch of users.

    Attributes:
        users: [rows] the user of each row of the cache.
        columns: number of tokens read behind the prompt, the same for each user (some are filling).
    """

    def __init__(self, model: Any, input_ids: Tensor, attention_mask: Tensor, room: int) -> None:  # noqa: ANN401
        """Check the prompts, [users, prompt] padded on the left, and leave room for `room` tokens behind them.

        Raises:
            DataError: a prompt is empty or not padded on the left.
            ModelError: the model's kind of attention cannot take a mask of its own.
        """
        self._config = model.config.get_text_config()
        self._kinds = _layer_kinds(self._config)
        self._model = model
        self._additive = _attention(self._config) == "eager"
        seen = attention_mask.to(torch.bool)
        if seen.shape != input_ids.shape or not bool(seen[:, -1:].all()) or bool((seen[:, :-1] > seen[:, 1:]).any()):
            raise DataError(
                f"Prompts of shape {tuple(input_ids.shape)} came with an attention mask of shape {tuple(seen.shape)} "
                "that is not empty padding on the left and text on the right. Pad prompts on the left, with at least "
                "one token each."
            )
        self._input_ids = input_ids
        self._seen = seen
        self._lengths: Ints = seen.sum(1).cpu().numpy()
        self._visible: Bools = np.zeros((len(input_ids), 0, 0), np.bool_)
        self._positions: Ints = np.zeros((len(input_ids), 0), np.int64)
        self._cache = RoomyCache(self._config.num_hidden_layers, room)
        self.users: Ints = np.arange(len(input_ids))
        self.columns = 0

    def read_prompts(self) -> Tensor:
        """Return the logits [users, vocabulary] behind the prompts; once, before anything else."""
        output = self._model(
            input_ids=self._input_ids,
            attention_mask=self._seen.long(),
            position_ids=(self._seen.long().cumsum(1) - 1).clamp(min=0),
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: Tensor = output.logits[:, -1]
        return logits

    def read(self, tokens: Ints, parents: Ints, depths: Ints, wanted: Bools) -> Tensor:
        """Read [rows, width] more tokens; return the logits [wanted.sum(), vocabulary] behind those that are `wanted`.

        `parents` are columns (0 is the prompt, 1 the first token read), which may be columns of this very call further
        left; `depths` count from 1 for the prompt's children. Tokens that are not wanted are filling that nobody sees.
        """
        positions = np.where(wanted, self._lengths[self.users][:, None] + depths - 1, 0)
        mask = self._masks(parents, positions, wanted)
        device = self._input_ids.device
        output = self._model(
            input_ids=torch.from_numpy(tokens).to(device),
            attention_mask=mask,
            position_ids=torch.from_numpy(positions).to(device),
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=torch.from_numpy(wanted).to(device),
        )
        logits: Tensor = output.logits
        return logits

    def keep(self, users: Ints) -> None:
        """Drop the rows of all users but `users`; rows may change places."""
        wanted = np.isin(self.users, users)
        rows = int(wanted.sum())
        holes, fillers = np.flatnonzero(~wanted[:rows]), rows + np.flatnonzero(wanted[rows:])
        moves = [(int(source), int(target)) for source, target in zip(fillers, holes, strict=True)]
        self._cache.keep(moves, rows)
        self.users = self.users.copy()
        self.users[holes] = self.users[fillers]
        self.users = self.users[:rows]

    def _masks(self, parents: Ints, positions: Ints, wanted: Bools) -> Tensor | dict[str, Tensor]:
        """Return what the new tokens see, [rows, 1, width, prompt + columns], for each kind of layer."""
        width, before = parents.shape[1], self.columns
        self._grow(width)
        visible = self._visible[self.users, :, : self.columns]
        rows = np.arange(len(self.users))
        for column in range(width):
            new = before + column
            parent = parents[:, column] - 1
            visible[:, new] = visible[rows, parent] & ((parent >= 0) & wanted[:, column])[:, None]
            visible[:, new, new] = True
        self._visible[self.users, before : self.columns, : self.columns] = visible[:, before : self.columns]
        self._positions[self.users, before : self.columns] = positions
        device = self._seen.device
        rows_seen = self._seen[torch.from_numpy(self.users).to(device)]
        prompt = rows_seen[:, None, :] & torch.from_numpy(wanted).to(device)[:, :, None]
        own = torch.from_numpy(np.ascontiguousarray(visible[:, before : self.columns])).to(device)
        full = torch.cat([prompt, own], dim=2)[:, None]
        masks = {"full_attention": full}
        if "sliding_attention" in self._kinds:
            tree_positions = torch.from_numpy(self._positions[self.users, : self.columns]).to(device)
            all_positions = torch.cat([rows_seen.long().cumsum(1) - 1, tree_positions], dim=1)
            distance = torch.from_numpy(positions).to(device)[:, :, None] - all_positions[:, None, :]
            masks["sliding_attention"] = full & (distance < self._config.sliding_window)[:, None]
        masks = {kind: self._as_added(mask) for kind, mask in masks.items() if kind in self._kinds}
        return masks if len(masks) > 1 else next(iter(masks.values()))

    def _as_added(self, mask: Tensor) -> Tensor:
        if not self._additive:
            return mask
        dtype = self._model.dtype
        return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, torch.finfo(dtype).min)

    def _grow(self, width: int) -> None:
        self.columns += width
        have = self._visible.shape[1]
        if self.columns > have:
            more = max(self.columns, 2 * have) - have
            self._visible = np.pad(self._visible, ((0, 0), (0, more), (0, more)))
            self._positions = np.pad(self._positions, ((0, 0), (0, more)))


def _layer_kinds(config: Any) -> set[str]:  # noqa: ANN401
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        kinds = ["full_attention" if getattr(config, "sliding_window", None) is None else "sliding_attention"]
    unknown = sorted(set(kinds) - KINDS)
    if unknown:
        raise ModelError(
            f"The model's layers are of the kind {unknown[0]!r}, which beam search over a tree cannot mask. "
            f"Choose a model whose layers are of the kinds {sorted(KINDS)}."
        )
    return set(kinds)


def _attention(config: Any) -> str:  # noqa: ANN401
    kind = str(config._attn_implementation)
    if kind not in ("sdpa", "eager"):
        raise ModelError(
            f"The model computes attention by {kind!r}, which takes no mask of its own. "
            "Load it with attn_implementation='sdpa' or 'eager'."
        )
    return kind
