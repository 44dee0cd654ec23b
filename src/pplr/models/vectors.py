"""Texts to vectors, with any language model of transformers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pplr.data.dataset import Ints
from pplr.errors import ConfigError
from pplr.models.batching import padded, sorted_batches


@dataclass(frozen=True)
class Tokens:
    """Token ids of many texts.

    Attributes:
        ids: one list of token ids per text.
        lengths: [texts] number of tokens of each.
    """

    ids: list[list[int]]
    lengths: Ints

    def __len__(self) -> int:
        return len(self.ids)


def tokenise(tokenizer: Any, texts: Sequence[str], max_tokens: int) -> Tokens:
    """Return the token ids of `texts`, each cut to `max_tokens` with its special tokens kept."""
    ids = tokenizer(list(texts), truncation=True, max_length=max_tokens)["input_ids"] if texts else []
    return Tokens(ids, np.fromiter((len(row) for row in ids), dtype=np.int64, count=len(ids)))


def mean_pool(hidden: Tensor, mask: Tensor) -> Tensor:
    """Return the mean, float32, of `hidden` [batch, length, width] over the positions where `mask` [batch, length] is one."""
    weights = mask.unsqueeze(-1).float()
    return (hidden.float() * weights).sum(1) / weights.sum(1).clamp(min=1)


def text_vectors(body: nn.Module, ids: Sequence[list[int]]) -> Tensor:
    """Return mean-pooled last hidden states [texts, width] of one padded batch; gradients flow if enabled."""
    device = next(body.parameters()).device
    tokens, mask = padded(ids, device)
    return mean_pool(body(input_ids=tokens, attention_mask=mask).last_hidden_state, mask)


def readable_tokens(body: nn.Module) -> int | None:
    """Return how many tokens a model with a table of positions can read, or None where it has no such table."""
    for path, module in body.named_modules():
        if path.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            # RoBERTa and its kin count positions from behind the padding id
            return module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
    return None


@torch.no_grad()
def encode(body: nn.Module, tokens: Tokens, batch_tokens: int = 4096) -> Tensor:
    """Return vectors [texts, width] float32 for all texts, batched by length.

    Raises:
        ConfigError: a text is longer than the model can read.
    """
    longest, readable = int(tokens.lengths.max(initial=0)), readable_tokens(body)
    if readable is not None and longest > readable:
        raise ConfigError(
            f"The longest item text has {longest} tokens, and the language model reads {readable} at most. "
            f"Set backbone.item_tokens to {readable} or lower."
        )
    device = next(body.parameters()).device
    parts = sorted_batches(tokens.lengths, batch_tokens)
    rows = [text_vectors(body, [tokens.ids[i] for i in part]).float() for part in parts]
    order = torch.from_numpy(np.concatenate(parts)).to(device)
    vectors = torch.cat(rows)
    return torch.empty_like(vectors).index_copy_(0, order, vectors)


def standardised(vectors: Tensor) -> Tensor:
    """Return vectors [n, width] with mean 0 and deviation 1 in every dimension.

    Vectors of language models share one dominant direction (Ethayarajh 2019, arXiv:1909.00512); UniSRec whitens them
    for the same reason (arXiv:2206.05941, section 2.1).
    """
    return (vectors - vectors.mean(0)) / vectors.std(0).clamp(min=1e-6)


def texts_digest(texts: Sequence[str]) -> str:
    """Return a hash of the texts and their order."""
    digest = hashlib.blake2b(digest_size=16)
    for text in texts:
        digest.update(text.encode())
        digest.update(b"\0")
    return digest.hexdigest()
