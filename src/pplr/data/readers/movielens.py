"""MovieLens' own files: 100k (`u.data`, `u.item`), 1m and 10m (`.dat`), 20m and later (`ratings.csv`, `movies.csv`).

Formats: the README of each data set, https://grouplens.org/datasets/movielens/. MovieTweetings' `.dat` files are alike.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Literal

import polars as pl

from pplr.data.readers.delimited import read_bytes, read_delimited

_EVENT_COLUMNS = ["user_id", "item_id", "rating", "timestamp"]
_ITEM_COLUMNS = ["item_id", "title", "genres"]
# in the order of ml-100k's u.genre
_GENRES = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip
_ITEM_COLUMNS_100K = ["item_id", "title", "release_date", "video_release_date", "url", *_GENRES]
_NO_GENRES = "(no genres listed)"
# a control character that stands for "::", because separators of one byte are all that the parser takes
_UNIT_SEPARATOR = "\x1f"


def is_movielens(path: Path) -> bool:
    """Return whether the file's name is one of MovieLens'; for `ratings.csv` and `movies.csv` its header decides."""
    name = path.name.lower().removesuffix(".gz")
    if name in {"u.data", "u.item", "ratings.dat", "movies.dat"}:
        return True
    if name not in {"ratings.csv", "movies.csv"} or not path.is_file():
        return False
    return b"movieId" in read_bytes(path)[:200]


def read_movielens(path: Path, role: Literal["events", "items"]) -> pl.DataFrame:
    """Return events as user_id, item_id, rating, timestamp; or items as item_id, title, genres (joined by "|").

    Files that are not UTF-8 are read as Latin-1, in which 100k and 1m are written.

    Raises:
        polars.exceptions.PolarsError, OSError, EOFError: the file is damaged, or has other columns.
    """
    name = path.name.lower().removesuffix(".gz")
    if name.endswith(".csv"):
        return _blank_genres(read_delimited(path))
    content = _utf8(read_bytes(path))
    if name.endswith(".dat"):
        columns = _EVENT_COLUMNS if role == "events" else _ITEM_COLUMNS
        frame = _without_header(content.replace(b"::", _UNIT_SEPARATOR.encode()), _UNIT_SEPARATOR, columns)
        return _blank_genres(frame)
    if role == "events":
        return _without_header(content, "\t", _EVENT_COLUMNS)
    return _items_100k(content)


def _items_100k(content: bytes) -> pl.DataFrame:
    frame = _without_header(content, "|", _ITEM_COLUMNS_100K)
    named = [pl.when(pl.col(genre) == "1").then(pl.lit(genre)) for genre in _GENRES[1:]]
    genres = pl.concat_str(named, separator="|", ignore_nulls=True).alias("genres")
    return frame.select("item_id", "title", "release_date", genres)


def _without_header(content: bytes, separator: str, columns: list[str]) -> pl.DataFrame:
    schema = dict.fromkeys(columns, pl.String)
    frame = pl.read_csv(io.BytesIO(content), separator=separator, has_header=False, quote_char=None, schema=schema)
    return frame.filter(~pl.all_horizontal(pl.all().is_null()))


def _blank_genres(frame: pl.DataFrame) -> pl.DataFrame:
    if "genres" not in frame.columns:
        return frame
    return frame.with_columns(pl.col("genres").replace(_NO_GENRES, ""))


def _utf8(content: bytes) -> bytes:
    try:
        content.decode()
    except UnicodeDecodeError:
        return content.decode("latin-1").encode()
    return content
