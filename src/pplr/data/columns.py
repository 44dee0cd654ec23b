"""Which column of a file is what: names given in the configuration, or recognised among well-known ones."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

from pplr.data.notes import examples
from pplr.errors import nearest

EVENT_COLUMNS = ("user", "item", "time", "position", "value", "split", "silo")
ITEM_COLUMNS = ("id", "title")
_REQUIRED = frozenset({"user", "item", "id", "title"})

_ITEM_NAMES = (
    "itemid", "item", "iid", "movieid", "productid", "parentasin", "asin", "articleid", "bookid", "songid", "trackid",
    "videoid", "gameid", "businessid", "newsid", "contentid", "sku", "stockcode",
)  # fmt: skip
# Compared in lower case and without punctuation; the first that a file has wins.
_WELL_KNOWN: dict[str, tuple[str, ...]] = {
    "user": ("userid", "user", "uid", "customerid", "reviewerid", "visitorid", "memberid", "accountid", "sessionid"),
    "item": _ITEM_NAMES,
    "time": ("timestamp", "time", "datetime", "unixtime", "unixreviewtime", "eventtime", "createdat", "ts", "date"),
    "position": ("position", "pos", "step"),
    "value": ("rating", "value", "score"),
    "split": ("split",),
    "silo": ("silo", "siloid"),
    "id": ("itemid", "item", "iid", "id", *_ITEM_NAMES[3:]),
    "title": ("title", "itemtitle", "movietitle", "producttitle", "name", "itemname", "productname", "caption"),
}


class ColumnNames(BaseModel):
    """Which column of your files is what. Leave a name out to have it recognised; give "" to ignore such a column."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    user: str | None = Field(default=None, description="Column of the user id in the events file.")
    item: str | None = Field(default=None, description="Column of the item id in the events file.")
    time: str | None = Field(
        default=None, description="Column of the event's time: unix time or a date; orders the events."
    )
    position: str | None = Field(
        default=None, description="Column of the event's place in its user's sequence; a whole number."
    )
    value: str | None = Field(
        default=None, description="Column of a rating or strength; used by cleaning.minimum_value only."
    )
    split: str | None = Field(
        default=None, description="Column with train, valid or test; used by the split 'global-time'."
    )
    silo: str | None = Field(
        default=None, description="Column of the silo that owns the user; used by the clients 'column'."
    )
    id: str | None = Field(default=None, description="Column of the item id in the items file.")
    title: str | None = Field(default=None, description="Column of the item's title in the items file.")


@dataclass(frozen=True)
class ChosenColumns:
    """The outcome of looking for columns in one file.

    Attributes:
        columns: our name -> the file's column, for those that were found.
        problems: one sentence per column that is missing or named twice.
    """

    columns: dict[str, str]
    problems: tuple[str, ...]


def choose_columns(present: Sequence[str], wanted: Sequence[str], names: ColumnNames, file_name: str) -> ChosenColumns:
    """Return which of the `present` columns plays each `wanted` role, with a sentence for everything that is wrong."""
    given: dict[str, str] = {role: name for role in wanted if (name := getattr(names, role))}
    ignored = {role for role in wanted if getattr(names, role) == ""}
    columns: dict[str, str] = {}
    problems: list[str] = []
    for role, name in given.items():
        if name not in present:
            problems.append(_missing_sentence(role, name, present, file_name))
        elif name in columns.values():
            other = next(key for key, value in columns.items() if value == name)
            problems.append(
                f"data.columns.{other} and data.columns.{role} both name '{name}' in {file_name}: name two."
            )
        else:
            columns[role] = name
    free = {_plain(name): name for name in reversed(present) if name not in columns.values()}
    for role in wanted:
        if role in given or role in ignored:
            continue
        found = next((free[known] for known in _WELL_KNOWN[role] if known in free), None)
        if found is not None:
            columns[role] = found
    problems.extend(
        _unrecognised_sentence(role, present, file_name)
        for role in wanted
        if role in _REQUIRED and role not in columns and role not in given
    )
    return ChosenColumns(columns, tuple(problems))


def _plain(name: str) -> str:
    return re.sub(r"[^0-9a-z]", "", name.lower())


def _missing_sentence(role: str, name: str, present: Sequence[str], file_name: str) -> str:
    return (
        f"{file_name} has no column '{name}', which data.columns.{role} names.{nearest(name, present)} "
        f"It has: {examples(present, limit=30)}."
    )


def _unrecognised_sentence(role: str, present: Sequence[str], file_name: str) -> str:
    if present and all(re.fullmatch(r"[\d.\s:-]*(_duplicated_\d+)?", name) for name in present):
        return (
            f"The first line of {file_name} looks like data, not like column names: {examples(present)}. "
            "Add a first line with names, such as user_id,item_id,timestamp."
        )
    return (
        f"{file_name} has no column that is recognised as {role}. It has: {examples(present, limit=30)}. "
        f'Name it in the configuration: data.columns.{role} = "...".'
    )
