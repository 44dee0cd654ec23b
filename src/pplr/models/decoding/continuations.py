"""The best next tokens behind each token that a model has read: all of the vocabulary, or what a trie allows.

Log-probabilities are those of the whole vocabulary in both cases: a trie forbids tokens, it does not renormalise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pplr.errors import NumericalError
from pplr.models.decoding.trie import TitleTrie

SOFTMAX_BYTES = 4 * 2**20
"""Log-probabilities that are in memory at once beside the logits; those of a place do not depend on it."""

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Continuations:
    """The best next tokens of some places, best first.

    Attributes:
        log_probs: [places, k] float32; -inf where there are fewer than k.
        tokens: [places, k].
        nodes: [places, k] node of the trie that the token leads to; -1 without a trie.
    """

    log_probs: Floats
    tokens: Ints
    nodes: Ints


def best_continuations(logits: Tensor, k: int, trie: TitleTrie | None, nodes: Ints) -> Continuations:
    """Return the `k` best next tokens from `logits` [places, vocabulary]; `nodes` [places] is where the trie stands.

    Raises:
        NumericalError: a log-probability is not a number.
    """
    pieces = logits.split(max(1, SOFTMAX_BYTES // (4 * logits.shape[1])))
    if trie is None:
        found = [torch.topk(_log_probs(piece), min(k, logits.shape[1])) for piece in pieces]
        best, chosen = (torch.cat(tensors) for tensors in zip(*found, strict=True))
        tokens = chosen.cpu().numpy()
        next_nodes = np.full_like(tokens, -1)
    else:
        children, exist = trie.children(nodes)
        device = logits.device
        allowed = torch.from_numpy(np.maximum(trie.tokens[children], 0)).to(device).split(len(pieces[0]))
        log_probs = torch.cat([_log_probs(p).gather(1, t) for p, t in zip(pieces, allowed, strict=True)])
        log_probs = log_probs.masked_fill(~torch.from_numpy(exist).to(device), -torch.inf)
        best, chosen = torch.topk(log_probs, min(k, log_probs.shape[1]))
        next_nodes = np.take_along_axis(children, chosen.cpu().numpy(), axis=1)
        tokens = trie.tokens[next_nodes]
    values = best.cpu().numpy()
    if np.isnan(values).any():
        raise NumericalError(
            "The model's scores for the next token are not numbers (NaN). Look for weights or adapters that are not "
            "finite, and lower the learning rate if they were trained."
        )
    missing = ((0, 0), (0, k - values.shape[1]))
    return Continuations(
        np.pad(values, missing, constant_values=-np.inf),
        np.pad(tokens, missing),
        np.pad(next_nodes, missing, constant_values=-1),
    )


def _log_probs(logits: Tensor) -> Tensor:
    return torch.log_softmax(logits.float(), dim=-1)
