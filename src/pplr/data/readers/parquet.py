"""Parquet files, plain or gzip-compressed. Columns keep their types; ids given as numbers become text later."""

from __future__ import annotations

import io
from pathlib import Path

import polars as pl

from pplr.data.readers.content import is_gzip
from pplr.data.readers.delimited import read_bytes


def read_parquet(path: Path) -> pl.DataFrame:
    """Return the Parquet file's columns, lists of texts joined by a vertical bar as MovieLens writes its genres.

    Raises:
        polars.exceptions.PolarsError, OSError, EOFError: the file is damaged or not Parquet.
    """
    source = io.BytesIO(read_bytes(path)) if is_gzip(path) else path
    frame = pl.read_parquet(source, hive_partitioning=False, glob=False)
    lists = [name for name, dtype in frame.schema.items() if isinstance(dtype, pl.List) and not dtype.inner.is_nested()]
    return frame.with_columns(pl.col(name).cast(pl.List(pl.String)).list.join("|", ignore_nulls=True) for name in lists)
