"""What the trunk's server receives: the states behind the bottom, after the codec.

No tokens, no texts, no embeddings are among it. But the server knows how long each text is, and whoever pulls the
same pretrained model can make states of other texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from pplr.audit.texts import HistoryText
from pplr.models.batching import sorted_batches
from pplr.models.parts.passing import PartModel
from pplr.trunk.codecs import Codec

BATCH_TOKENS = 2048
"""Tokens that are read at once, padding included."""


@dataclass(frozen=True)
class Observed:
    """States of the lists of items of some texts; those of what all texts share are left out.

    Attributes:
        states: [tokens, width] float32, one text behind the other.
        lengths: tokens of each text's list.
    """

    states: Tensor
    lengths: tuple[int, ...]

    @property
    def positions(self) -> Tensor:
        """[tokens] number of each token within its list."""
        return torch.cat([torch.arange(length) for length in self.lengths])

    def each(self) -> list[Observed]:
        """Return every text by itself."""
        rows = torch.split(self.states, list(self.lengths))
        return [Observed(states, (len(states),)) for states in rows]


@torch.no_grad()
def behind(part: PartModel, rows: Sequence[Tensor]) -> list[Tensor]:
    """Return the states [length, width] behind a part of a model, of each of `rows`.

    Rows are token ids [length] where the part is a bottom, and else states [length, width].
    """
    lengths = np.asarray([len(row) for row in rows], np.int64)
    found: list[Tensor] = [torch.empty(0)] * len(rows)
    for batch in sorted_batches(lengths, BATCH_TOKENS):
        filled = pad_sequence([rows[i] for i in batch], batch_first=True)
        mask = (torch.arange(filled.shape[1]) < torch.from_numpy(lengths[batch])[:, None]).long()
        for i, states in zip(batch.tolist(), part.through(filled, mask), strict=True):
            found[i] = states[: lengths[i]].clone()
    return found


def observed(states: Sequence[Tensor], texts: Sequence[HistoryText], codec: Codec) -> Observed:
    """Return what arrives of the states [length, width] of whole texts, reduced to the lists of items."""
    arrived = []
    for row, text in zip(states, texts, strict=True):
        through = codec.decode(codec.encode(row), len(row), row.shape[1])
        arrived.append(through[text.start : text.stop])
    return Observed(torch.cat(arrived), tuple(len(row) for row in arrived))
