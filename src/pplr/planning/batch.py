"""What a planned step and a planned recommendation read: a typical batch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Reading:
    """Typical texts, and how they are put into batches.

    Attributes:
        prompt: tokens of a prompt, or of a history where the model is an encoder.
        common: of these, tokens that all prompts begin with (decoders).
        title: tokens of a title (decoders).
        beams: beams of the search (decoders).
        batch_tokens: tokens of a training batch.
        pieces: pieces of a batch that are under way at once.
    """

    prompt: int = 100
    common: int = 20
    title: int = 8
    beams: int = 4
    batch_tokens: int = 512
    pieces: int = 2


@dataclass(frozen=True)
class Batch:
    """A training step, all of whose rows have the same length.

    Attributes:
        rows: sequences.
        length: tokens of each, behind the start.
        start: tokens of the start that all rows continue, read once; 0 for none.
        targets: positions at which logits are computed, in all rows.
        causal: tokens see those before them; otherwise all of their row.
        pieces: rows in each piece that passes through the trunk.
    """

    rows: int
    length: int
    start: int
    targets: int
    causal: bool
    pieces: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """Tokens that the bottom reads."""
        return self.rows * self.length + self.start

    @property
    def tokens_behind(self) -> int:
        """Tokens that trunk and top read: the start goes along with every piece."""
        return self.rows * self.length + len(self.pieces) * self.start

    @property
    def pairs(self) -> float:
        """Pairs of (reading, read) token in the bottom."""
        return self._row_pairs() + self._start_pairs()

    @property
    def pairs_behind(self) -> float:
        """Pairs of (reading, read) token in trunk and top."""
        return self._row_pairs() + len(self.pieces) * self._start_pairs()

    def _row_pairs(self) -> float:
        own = self.length**2 / 2 if self.causal else self.length**2
        return self.rows * (own + self.length * self.start)

    def _start_pairs(self) -> float:
        return self.start**2 / 2


def training_batch(reading: Reading, *, decoder: bool) -> Batch:
    """Return a typical training step.

    A decoder's example is its prompt and title, of which the last token is predicted and never read: the end of the
    text is one target more than the title has tokens.
    """
    length = reading.prompt + (reading.title if decoder else 0)
    rows = max(1, reading.batch_tokens // length)
    start = min(reading.common, reading.prompt - 1) if decoder and rows > 1 else 0
    targets = rows * (reading.title + 1) if decoder else rows
    return Batch(rows, length - start, start, targets, decoder, _pieces(rows, reading.pieces))


def _pieces(rows: int, pieces: int) -> tuple[int, ...]:
    if pieces == 1 or rows < pieces:
        return (rows,)
    most = -(-rows // pieces)  # as torch.chunk cuts
    return tuple(min(most, rows - first) for first in range(0, rows, most))
