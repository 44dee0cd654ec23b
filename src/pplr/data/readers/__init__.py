"""Readers: a file becomes a polars frame whose text is untouched. One file per format."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import polars as pl

from pplr.data.readers.content import check_text
from pplr.data.readers.delimited import read_delimited
from pplr.data.readers.movielens import is_movielens, read_movielens
from pplr.data.readers.parquet import read_parquet
from pplr.data.readers.recbole import read_recbole
from pplr.errors import DataError

Format = Literal["auto", "csv", "parquet", "recbole", "movielens"]
Role = Literal["events", "items"]

__all__ = ["Format", "Role", "format_of", "read_table"]


def format_of(path: Path) -> Format:
    """Return the format that the file's name tells: never "auto"; "csv" for every name that tells nothing."""
    names = [suffix.lower() for suffix in path.suffixes]
    if ".parquet" in names or ".pq" in names:
        return "parquet"
    if ".inter" in names or ".item" in names:
        # ml-100k's own item file is called u.item
        return "movielens" if path.name == "u.item" else "recbole"
    return "movielens" if is_movielens(path) else "csv"


def read_table(path: Path, file_format: Format, role: Role) -> pl.DataFrame:
    """Return the table in `path`; ids and texts as the file has them.

    Raises:
        DataError: the file is missing, is a folder, is empty or damaged, or is not in this format.
    """
    if not path.exists():
        raise DataError(f"There is no file {path}, which data.{role} names. Check the path and the working folder.")
    if path.is_dir():
        raise DataError(f"{path}, which data.{role} names, is a folder: name the file inside it.")
    chosen = format_of(path) if file_format == "auto" else file_format
    try:
        frame = _read(path, chosen, role)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 text (byte {error.start} cannot be read). Convert it, for example with "
            "'iconv -f latin1 -t utf8'."
        ) from error
    except (pl.exceptions.PolarsError, OSError, EOFError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise DataError(
            f"{path} cannot be read as {chosen}: {reason}. Check that the file is complete, and set data.format to "
            "csv, parquet, recbole or movielens if it was taken for the wrong one."
        ) from error
    if frame.is_empty():
        raise DataError(f"{path} has no rows.")
    return frame


def _read(path: Path, file_format: Format, role: Role) -> pl.DataFrame:
    if file_format == "parquet":
        return read_parquet(path)
    check_text(path)
    if file_format == "recbole":
        return read_recbole(path)
    if file_format == "movielens":
        return read_movielens(path, role)
    return read_delimited(path)
