"""Keys and values of a growing sequence, written in place.

transformers' dynamic cache copies everything at every step to append a few tokens. Here room is left behind the
prompt, so that a step copies only what is new.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer


class RoomyLayer(DynamicLayer):  # type: ignore[misc, unused-ignore]  # transformers' classes may be untyped
    """One layer's keys and values, [rows, heads, tokens, width], with free room behind the last token.

    Every layer keeps all tokens, also one with a sliding window: the window is a matter of the mask.
    """

    def __init__(self, room: int) -> None:
        """Leave `room` free tokens whenever memory is taken."""
        super().__init__()
        self._room = room
        self._stores: list[Tensor] = []
        self._length = 0

    def update(self, key_states: Tensor, value_states: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        """Append [rows, heads, new, width] and return all keys and values so far."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        new = (key_states, value_states)
        end = self._length + key_states.shape[-2]
        if not self._stores or end > self._stores[0].shape[-2]:
            self._stores = [self._larger(i, states, end) for i, states in enumerate(new)]
        for store, states in zip(self._stores, new, strict=True):
            store[:, :, self._length : end] = states
        first, self._length = self._length == 0, end
        self._show()
        return new if first else (self.keys, self.values)

    def keep(self, moves: list[tuple[int, int]], rows: int) -> None:
        """Copy row `source` over row `target` for each (source, target), then drop all rows from `rows` on."""
        for store in self._stores:
            for source, target in moves:
                store[target, :, : self._length] = store[source, :, : self._length]
        self._stores = [store[:rows] for store in self._stores]
        self._show()

    def spread(self, rows: int, room: int) -> None:
        """Give what the only row holds to `rows` rows, and leave `room` free tokens behind it."""
        stores = []
        for store in self._stores:
            _, heads, _, width = store.shape
            larger = store.new_empty(rows, heads, self._length + room, width)
            larger[:, :, : self._length] = store[:, :, : self._length]
            stores.append(larger)
        self._stores = stores
        self._show()

    def _show(self) -> None:
        self.keys, self.values = (store[:, :, : self._length] for store in self._stores)

    def _larger(self, index: int, states: Tensor, end: int) -> Tensor:
        rows, heads, _, width = states.shape
        store = torch.empty(rows, heads, end + self._room, width, dtype=states.dtype, device=states.device)
        if self._stores:
            store[:, :, : self._length] = self._stores[index][:, :, : self._length]
        return store


class RoomyCache(Cache):  # type: ignore[misc, unused-ignore]
    """A cache of `RoomyLayer`, one per layer of the model."""

    def __init__(self, layers: int, room: int) -> None:
        super().__init__(layers=[RoomyLayer(room) for _ in range(layers)])

    def keep(self, moves: list[tuple[int, int]], rows: int) -> None:
        """Apply `RoomyLayer.keep` to every layer."""
        for layer in self.layers:
            layer.keep(moves, rows)

    def spread(self, rows: int, room: int) -> None:
        """Apply `RoomyLayer.spread` to every layer."""
        for layer in self.layers:
            layer.spread(rows, room)
