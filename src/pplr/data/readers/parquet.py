"""Parquet files. Columns keep their types; ids given as numbers become text where the tables are checked."""

from __future__ import annotations

from pathlib import Path

import polars as pl


def read_parquet(path: Path) -> pl.DataFrame:
    """Return the Parquet file's columns, lists of texts joined by a vertical bar as MovieLens writes its genres.

    Raises:
        polars.exceptions.PolarsError, OSError: the file is damaged or not Parquet.
    """
    frame = pl.read_parquet(path, hive_partitioning=False, glob=False)
    lists = [name for name, dtype in frame.schema.items() if isinstance(dtype, pl.List) and not dtype.inner.is_nested()]
    return frame.with_columns(pl.col(name).cast(pl.List(pl.String)).list.join("|", ignore_nulls=True) for name in lists)
