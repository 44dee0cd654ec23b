"""Ids are text: '0385002' and '385002' are two items. Numbers are turned into text here and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from pplr.data.notes import Note, examples


@dataclass(frozen=True)
class Ids:
    """A column read as ids.

    Attributes:
        values: [rows] String without surrounding spaces; null where `problems` says that an id is missing.
        notes: conversions that were made.
        problems: sentences about ids that are missing or cannot be ids.
    """

    values: pl.Series
    notes: tuple[Note, ...] = ()
    problems: tuple[str, ...] = ()


def read_ids(column: pl.Series, file_name: str) -> Ids:
    """Return the column as ids; numbers of a Parquet file become text, which a note tells."""
    where = f"column '{column.name}' of {file_name}"
    notes: list[Note] = []
    dtype = column.dtype
    if dtype.is_float():
        if not bool((column.drop_nulls() == column.drop_nulls().round()).all()):
            return Ids(_nothing(column), problems=(f"The ids in {where} are fractions: write them as text.",))
        column = column.cast(pl.Int64, strict=False)
    if dtype.is_numeric():
        text = f"Turned {len(column):,} numeric ids in {where} into text; leading zeros, if there were any, are lost."
        notes.append(Note("numeric-ids", len(column), text))
    elif not (dtype in (pl.String, pl.Categorical, pl.Enum) or dtype == pl.Null):
        return Ids(_nothing(column), problems=(f"The ids in {where} are of type {dtype}: write them as text.",))
    text_ids = column.cast(pl.String)
    stripped = text_ids.str.strip_chars()
    count = int((stripped != text_ids).sum())
    if count:
        notes.append(Note("id-spaces", count, f"Removed white space around {count:,} ids in {where}."))
    ids = pl.select(pl.when(stripped != "").then(stripped)).to_series()
    return Ids(ids, tuple(notes), _missing(ids, where))


def lost_zeros(unknown: pl.Series, known: pl.Series) -> str:
    """Return a sentence where unknown ids equal known ones but for leading zeros or a trailing '.0'; "" where none do.

    Spreadsheets and number-minded readers write '0385002' back as '385002', or as '385002.0'.
    """
    pairs = (
        pl.DataFrame({"unknown": unknown.unique(maintain_order=True)})
        .with_columns(bare=_bare(pl.col("unknown")))
        .join(pl.DataFrame({"known": known.unique()}).with_columns(bare=_bare(pl.col("known"))), on="bare")
    )
    if pairs.is_empty():
        return ""
    first = pairs.sort("unknown").row(0, named=True)
    return (
        f" {pairs['unknown'].n_unique():,} of these ids equal an item's but for zeros, such as '{first['unknown']}' "
        f"for '{first['known']}': a program read them as numbers. Write both files again with ids as text."
    )


def _bare(ids: pl.Expr) -> pl.Expr:
    return ids.str.replace(r"\.0+$", "").str.strip_chars_start("0")


def _missing(ids: pl.Series, where: str) -> tuple[str, ...]:
    count = ids.null_count()
    if count == 0:
        return ()
    rows = (ids.is_null().arg_true() + 1).to_list()
    return (f"{count:,} ids in {where} are empty, in data rows {examples(rows)}. Fill them in or leave the rows out.",)


def _nothing(column: pl.Series) -> pl.Series:
    return pl.repeat(None, len(column), dtype=pl.String, eager=True)
