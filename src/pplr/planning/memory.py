"""Memory of a client and of the trunk's server, in bytes, float32 throughout.

    weights          4 bytes each, frozen
    adapters         24 bytes each: value, gradient, AdamW's two moments, and those that it went on from in this round; the server
                     has the best row and what was received in this round too, 32 (of which training.moments = "fresh" needs 8 less)
    training         what a backward pass needs: per token and layer the inputs of the norms; queries, keys, values and
                     output of attention; three times the width of a gated feed-forward, once that of a plain one; twice
                     the inputs of adapted maps (dropout, and what it leaves); the matrix of attention where it is not
                     fused; keys and values of the start for every row; four states per token that travel; three numbers
                     per word and target position
    recommending     keys and values of what a batch of users has read, and logits of what is read at once

    total            RUNTIME + weights + adapters + HEAP x training + recommending

RUNTIME is what Python and its libraries take themselves. HEAP is there because the C library keeps memory between the
tensors of a step that nobody uses at the moment. A client trains and recommends in turn, but what the one leaves free
is rarely what the other takes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pplr.models.parts import Cut, Which
from pplr.planning.batch import Batch, Reading
from pplr.planning.outline import Layer, Outline

NUMBER = 4
"""Bytes of a number: pplr loads weights and computes in float32."""

RUNTIME = 550_000_000
"""Bytes that a process with torch, transformers, a tokenizer and small data has before any weight
(benchmarks/plan_measured.py)."""

HEAP = 1.7
"""Bytes that are resident for each that a step needs: 1.6 to 1.8 were measured with glibc
(benchmarks/plan_measured.py)."""

READ_AT_ONCE = 2
"""Tokens per beam that a search reads in one call, some of them ahead."""

AT_CLIENT, AT_SERVER = 6, 8
"""Numbers that are held for each adapted one."""

USERS = 16
"""Users whose titles are searched at once in an evaluation, and for whom keys and values are held."""


@dataclass(frozen=True)
class Memory:
    """Bytes.

    Attributes:
        weights: frozen weights.
        adapters: adapters and what goes with each.
        training: what a step needs beside them.
        recommending: what recommendations need beside weights and adapters.
        runtime: the process itself.
    """

    weights: int
    adapters: int
    training: int
    recommending: int
    runtime: int = RUNTIME

    @property
    def total(self) -> int:
        """Bytes at the fullest moment."""
        return self.runtime + self.weights + self.adapters + round(HEAP * self.training) + self.recommending


def client_memory(outline: Outline, cut: Cut, batch: Batch, reading: Reading) -> Memory:
    """Return the memory of a client with bottom and top."""
    bottom, top = outline.part(cut, Which.BOTTOM), outline.part(cut, Which.TOP)
    states = _trained(bottom, batch, batch.tokens) + _trained(top, batch, batch.tokens_behind)
    travelling = 4 * batch.tokens_behind * outline.width
    return _memory(
        outline.client_parameters(cut),
        AT_CLIENT * (sum(layer.adapters for layer in bottom + top) + outline.outside),
        states + travelling + _logits(outline, batch.targets, 3),
        _remembered(outline, bottom + top, reading) + _searched(outline, reading),
    )


def whole_memory(outline: Outline, batch: Batch, reading: Reading) -> Memory:
    """Return the memory of a client that holds the whole model."""
    return _memory(
        outline.parameters,
        AT_CLIENT * (sum(layer.adapters for layer in outline.layers) + outline.outside),
        _trained(outline.layers, batch, batch.tokens) + _logits(outline, batch.targets, 3),
        _remembered(outline, outline.layers, reading) + _searched(outline, reading),
    )


def server_memory(outline: Outline, cut: Cut, batch: Batch, reading: Reading, clients: int) -> Memory:
    """Return the memory of the trunk's server while `clients` are served at once, each in the middle of a step."""
    trunk = outline.part(cut, Which.TRUNK)
    states = _trained(trunk, batch, batch.tokens_behind) + 4 * batch.tokens_behind * outline.width
    return _memory(
        outline.server_parameters(cut),
        AT_SERVER * clients * sum(layer.adapters for layer in trunk),
        clients * states,
        clients * _remembered(outline, trunk, reading),
    )


def _memory(weights: int, adapters: int, training: int, recommending: int) -> Memory:
    return Memory(NUMBER * weights, NUMBER * adapters, NUMBER * training, NUMBER * recommending)


def _trained(layers: Iterable[Layer], batch: Batch, tokens: int) -> int:
    """Return how many numbers a backward pass through `layers` needs."""
    every = list(layers)
    own = tokens * sum(layer.states + 2 * layer.adapted for layer in every)
    continued = batch.rows * batch.start * 2 * sum(layer.attention for layer in every)
    seen = batch.rows * batch.length * (batch.start + batch.length)
    return own + continued + seen * sum(layer.matrices for layer in every)


def _logits(outline: Outline, positions: int, copies: int) -> int:
    return copies * positions * (outline.head // outline.width)


def _searched(outline: Outline, reading: Reading) -> int:
    """Return how many numbers the logits of a search have: they, their log-softmax, and a copy that is sorted."""
    return _logits(outline, USERS * reading.beams * READ_AT_ONCE, 3)


def _remembered(outline: Outline, layers: Iterable[Layer], reading: Reading) -> int:
    """Return how many numbers the keys and values of a search have: prompt and all that was read behind it."""
    if not outline.decoder:
        return 0
    tokens = reading.prompt + reading.beams * reading.title
    return USERS * tokens * 2 * sum(layer.keys for layer in layers)
