"""The texts of histories as a backbone writes them, and where the titles stand in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pplr.data.dataset import Catalogue, Ints
from pplr.errors import ConfigError
from pplr.models.encoder import EncoderSettings
from pplr.models.generative import GenerativeSettings
from pplr.models.prompts import PromptBuilder, load_template
from pplr.models.text import item_texts


@dataclass(frozen=True)
class Place:
    """Where a title stands.

    Attributes:
        item: the item's code.
        start: position of the title's first token in the list of items.
        stop: position behind its last token.
    """

    item: int
    start: int
    stop: int


@dataclass(frozen=True)
class HistoryText:
    """A history as token ids.

    Attributes:
        ids: all tokens that the model reads.
        start: position in `ids` at which the list of items begins; what stands before is the same in all texts.
        stop: position in `ids` behind the list; what follows is the same in all texts.
        titles: the titles, with positions counted from `start`.
    """

    ids: list[int]
    start: int
    stop: int
    titles: tuple[Place, ...]

    @property
    def listed(self) -> list[int]:
        """The tokens of the list of items: all that is not known to everybody."""
        return self.ids[self.start : self.stop]


@dataclass(frozen=True)
class Writing:
    """How a backbone writes histories. All of it is public.

    Attributes:
        before: tokens that every text begins with.
        pieces: the tokens of each item.
        titles: per item, from which token of its piece to which the title goes.
        separator: tokens between items.
        after: tokens that every text ends with.
        items: newest items of a history that are written.
        room: tokens that pieces and separators may take; the oldest items are left out.
        newest_first: the order in which items are written.
    """

    before: list[int]
    pieces: list[list[int]]
    titles: list[tuple[int, int]]
    separator: list[int]
    after: list[int]
    items: int
    room: int
    newest_first: bool

    def text(self, history: Ints) -> HistoryText:
        """Return the text of a history of item codes, oldest first."""
        order = self._written(history)
        listed: list[int] = []
        places = []
        for item in order:
            if listed:
                listed += self.separator
            first, last = self.titles[item]
            places.append(Place(item, len(listed) + first, len(listed) + last))
            listed += self.pieces[item]
        start = len(self.before)
        return HistoryText([*self.before, *listed, *self.after], start, start + len(listed), tuple(places))

    def _written(self, history: Ints) -> list[int]:
        """Return the items that are written, in their order."""
        kept: list[int] = []
        left = self.room
        for item in history[::-1][: self.items].tolist():
            left -= len(self.pieces[item]) + (len(self.separator) if kept else 0)
            if left < 0:
                break
            kept.append(item)
        return kept if self.newest_first else kept[::-1]


def generative_writing(settings: GenerativeSettings, catalogue: Catalogue, tokenizer: Any) -> Writing:
    """Return how the generative backbone writes prompts."""
    template = load_template(settings.prompt)
    builder = PromptBuilder(
        template,
        tokenizer,
        list(catalogue.titles),
        items=settings.history_items,
        tokens=settings.prompt_tokens,
        title_tokens=settings.title_tokens,
    )
    left, right = (
        len(tokenizer(side, add_special_tokens=False)["input_ids"]) if side else 0
        for side in template.item.split("{title}")
    )
    return Writing(
        before=builder.before,
        pieces=builder.titles,
        titles=[(left, len(piece) - right) for piece in builder.titles],
        separator=builder.separator,
        after=builder.after,
        items=settings.history_items,
        room=builder.room,
        newest_first=False,
    )


def encoder_writing(settings: EncoderSettings, catalogue: Catalogue, tokenizer: Any) -> Writing:
    """Return how the encoder backbone writes histories.

    Raises:
        ConfigError: an item's text does not fit.
    """
    texts = item_texts(catalogue, settings.attributes)
    read = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
    pieces = [ids[: settings.item_tokens] for ids in read["input_ids"]]
    before, after = _single(tokenizer.cls_token_id), _single(tokenizer.sep_token_id)
    room = settings.history_tokens - len(before) - len(after)
    longest = max(map(len, pieces), default=0)
    if longest > room:
        raise ConfigError(
            f"backbone.history_tokens = {settings.history_tokens} leaves no room for the longest item text ({longest} "
            "tokens). Set it higher, or item_tokens lower."
        )
    return Writing(
        before=before,
        pieces=pieces,
        titles=[
            (0, _tokens_within(offsets[: len(piece)], len(title)))
            for piece, offsets, title in zip(pieces, read["offset_mapping"], catalogue.titles, strict=True)
        ],
        separator=[],
        after=after,
        items=settings.history_items,
        room=room,
        newest_first=True,
    )


def _tokens_within(offsets: Sequence[tuple[int, int]], characters: int) -> int:
    """Return how many tokens begin within the first `characters` of a text."""
    return sum(begin < characters for begin, _ in offsets)


def _single(token: int | None) -> list[int]:
    return [] if token is None else [token]
