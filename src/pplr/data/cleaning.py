"""Cleaning: each step is switched by a setting and returns what it changed; nothing is changed silently."""

from __future__ import annotations

import html
from collections.abc import Callable
from functools import partial
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from pplr.data.dataset import Ints
from pplr.data.notes import Note

_SPACES = r"[\s\u00a0\u200b\ufeff]+"


class CleaningSettings(BaseModel):
    """What is changed in the data before it is used; every change is counted and logged."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    unescape_html: bool = Field(
        default=True, description="Turn HTML entities in item texts into characters: '&amp;' into '&'."
    )
    fold_whitespace: bool = Field(
        default=True, description="Turn runs of white space and line breaks in texts into one space."
    )
    title_length: int = Field(
        default=200, ge=1, le=10_000, description="Longest title in characters; the rest is cut off."
    )
    attribute_length: int = Field(default=200, ge=1, le=10_000, description="Longest item attribute in characters.")
    missing_titles: Literal["error", "drop"] = Field(
        default="error",
        description="What to do with items without a title: stop, or drop them together with their events.",
    )
    unknown_items: Literal["error", "drop"] = Field(
        default="error",
        description="What to do with events of items that the items file lacks: stop, or drop the events.",
    )
    duplicate_events: Literal["keep", "drop"] = Field(
        default="drop", description="What to do with events equal in user, item, time and position to an earlier one."
    )
    minimum_value: float | None = Field(
        default=None,
        allow_inf_nan=False,
        description="Drop events whose value (rating) is below this number, before the split.",
    )
    k_core: int = Field(
        default=0,
        ge=0,
        le=1_000,
        description="Keep only users and items with at least this many training events, repeatedly; 0 or 1 keeps all.",
    )


def clean_texts(items: pl.DataFrame, settings: CleaningSettings) -> tuple[pl.DataFrame, list[Note]]:
    """Return the items [items] with `title` and all attributes cleaned, and what was done.

    Order: entities, white space, length; so that the limit counts what a reader sees.
    """
    notes: list[Note] = []
    texts = [name for name in items.columns if name != "id"]
    if settings.unescape_html:
        items, count = _apply(items, texts, _unescape)
        notes += _note("html-entities", count, f"Turned HTML entities into characters in {count:,} item texts.")
    if settings.fold_whitespace:
        items, count = _apply(items, texts, lambda text: text.str.replace_all(_SPACES, " ").str.strip_chars())
        notes += _note("white-space", count, f"Folded white space in {count:,} item texts.")
    for names, limit, what in (
        (["title"], settings.title_length, "titles"),
        ([name for name in texts if name != "title"], settings.attribute_length, "attributes"),
    ):
        items, count = _apply(items, names, partial(_cut, limit=limit))
        notes += _note(f"{what}-length", count, f"Cut {count:,} {what} to {limit} characters.")
    return items, notes


def training_core(
    users: Ints, items: Ints, training: NDArray[np.bool_], core: int, *, user_count: int, item_count: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which users and which items stay in the k-core of the training events.

    Only training events are counted, after the split: were the test events counted, then whether a user or an item
    is there at all would depend on what the test set holds. Users and items outside the core are to be dropped
    wholly, from training, validation, test and catalogue alike.

    Args:
        users: [events] user codes.
        items: [events] item codes.
        training: [events] which events are training events.
        core: the least number of training events of each user and each item that stay.
        user_count: how many user codes there are.
        item_count: how many item codes there are.

    Returns:
        (kept_users [user_count], kept_items [item_count]).
    """
    kept_users, kept_items = np.ones(user_count, dtype=bool), np.ones(item_count, dtype=bool)
    users, items = users[training], items[training]
    while True:
        users_now = kept_users & (np.bincount(users, minlength=user_count) >= core)
        items_now = kept_items & (np.bincount(items, minlength=item_count) >= core)
        if (users_now == kept_users).all() and (items_now == kept_items).all():
            return kept_users, kept_items
        kept_users, kept_items = users_now, items_now
        stay = kept_users[users] & kept_items[items]
        users, items = users[stay], items[stay]


def unescape(text: str) -> str:
    """Return `text` with HTML entities as characters, also those escaped twice ('&amp;amp;')."""
    while (once := html.unescape(text)) != text:
        text = once
    return text


def _unescape(text: pl.Expr) -> pl.Expr:
    written = text.str.contains("&", literal=True)
    return pl.when(written).then(text.map_elements(unescape, return_dtype=pl.String)).otherwise(text)


def _cut(text: pl.Expr, limit: int) -> pl.Expr:
    return text.str.head(limit).str.strip_chars_end()


def _apply(items: pl.DataFrame, names: list[str], change: Callable[[pl.Expr], pl.Expr]) -> tuple[pl.DataFrame, int]:
    changed = items.with_columns(change(pl.col(name)) for name in names)
    count = sum(int((items[name].ne_missing(changed[name])).sum()) for name in names)
    return changed, count


def _note(step: str, count: int, text: str) -> list[Note]:
    return [Note(step, count, text)] if count else []
