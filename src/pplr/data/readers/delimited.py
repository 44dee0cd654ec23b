"""Comma-, tab-, semicolon- or bar-separated text with a header line, plain or gzip-compressed."""

from __future__ import annotations

import csv
import gzip
import io
from pathlib import Path

import polars as pl

from pplr.data.readers.content import beginning

_SEPARATORS = (",", "\t", ";", "|")
_SAMPLE_CHARACTERS = 1 << 16
_SAMPLE_ROWS = 100


def read_delimited(path: Path) -> pl.DataFrame:
    """Return all columns of a delimited file as text; blank lines are left out and the separator is recognised.

    Raises:
        polars.exceptions.PolarsError, OSError, EOFError: the file is damaged, or rows have too many fields.
        UnicodeDecodeError: the file is not UTF-8.
    """
    return read_text_columns(path, sniff_separator(path))


def read_text_columns(path: Path, separator: str, quotes: bool = True) -> pl.DataFrame:
    """Return the columns of a file with a header line as text, for a known separator."""
    try:
        frame = pl.read_csv(path, separator=separator, infer_schema=False, quote_char='"' if quotes else None)
    except pl.exceptions.ComputeError as error:
        if "utf-8" in str(error):
            read_bytes(path).decode()
        raise
    return frame.filter(~pl.all_horizontal(pl.all().is_null()))


def read_bytes(path: Path) -> bytes:
    """Return the file's content, unpacked where it is gzip."""
    content = path.read_bytes()
    return gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content


def sniff_separator(path: Path) -> str:
    """Return the separator under which most rows of the file's beginning have as many fields as its header."""
    raw = beginning(path, _SAMPLE_CHARACTERS)
    sample = raw.decode("utf-8-sig", errors="replace")
    if len(raw) == _SAMPLE_CHARACTERS:
        sample = sample[: sample.rfind("\n") + 1]
    return max(_SEPARATORS, key=lambda separator: _agreement(sample, separator))


def _agreement(sample: str, separator: str) -> tuple[float, int]:
    rows = csv.reader(io.StringIO(sample, newline=""), delimiter=separator)
    try:
        widths = [len(row) for row, _ in zip(rows, range(_SAMPLE_ROWS), strict=False) if row]
    except csv.Error:
        return 0.0, 0
    if not widths or widths[0] < 2:
        return 0.0, 0
    return sum(width == widths[0] for width in widths) / len(widths), widths[0]
