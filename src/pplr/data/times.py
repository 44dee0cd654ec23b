"""Times and positions as they stand in files, read into whole numbers.

Inside this room a time keeps the resolution of the file, so that no tie appears that the file does not have; the data
set that leaves the room counts seconds wherever the unit is known.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import polars as pl

from pplr.data.notes import examples

_DATE_FORMATS = (
    "%Y-%m-%d %H:%M:%S%.f",
    "%Y-%m-%dT%H:%M:%S%.f",
    "%Y-%m-%d %H:%M",
    "%Y-%m-%dT%H:%M",
    "%Y/%m/%d %H:%M:%S%.f",
    "%Y/%m/%d %H:%M",
)
_ZONED_FORMATS = ("%Y-%m-%dT%H:%M:%S%.f%#z", "%Y-%m-%d %H:%M:%S%.f%#z")
_DAY_FORMATS = ("%Y-%m-%d", "%Y/%m/%d")
_EXACT_IN_FLOAT = 2.0**53


class TimeUnit(Enum):
    """The unit of a time column; the value is how many of it make a second, 0 where nobody knows."""

    SECONDS = 1
    MILLISECONDS = 1_000
    MICROSECONDS = 1_000_000
    NANOSECONDS = 1_000_000_000
    UNKNOWN = 0


@dataclass(frozen=True)
class Numbers:
    """A column read as whole numbers.

    Attributes:
        values: [rows] Int64; null where `problems` says that a value cannot be read.
        problems: sentences about values that cannot be read.
        unit: what the numbers count, for times.
    """

    values: pl.Series
    problems: tuple[str, ...] = ()
    unit: TimeUnit = TimeUnit.UNKNOWN


def read_times(column: pl.Series, file_name: str) -> Numbers:
    """Return times as whole numbers since 1970 (UTC), read from unix times in any unit or from dates.

    Numbers too small to be a unix time after 1973 are kept as they are, with the unit unknown: a year, a step.
    """
    dtype = column.dtype
    if dtype.is_integer():
        return _whole(column.cast(pl.Int64), column, file_name)
    if dtype.is_float():
        return _fractional(column.cast(pl.Float64), column, file_name)
    if dtype == pl.Date or isinstance(dtype, pl.Datetime):
        moments = column.cast(pl.Datetime("us"))
        return _complete(moments.dt.epoch("us"), column, file_name, TimeUnit.MICROSECONDS)
    if dtype != pl.String:
        sentence = f"The time column '{column.name}' of {file_name} holds {dtype}: give unix times or dates."
        return Numbers(_nothing(column), (sentence,))
    text = column.str.strip_chars()
    given = text.is_not_null().sum()
    numbers = text.cast(pl.Float64, strict=False)
    if numbers.is_not_null().sum() * 2 >= given:
        whole = text.cast(pl.Int64, strict=False)
        if whole.null_count() == numbers.null_count():
            return _whole(whole, column, file_name)
        return _fractional(numbers, column, file_name)
    return _dates(text, column, file_name)


def read_positions(column: pl.Series, file_name: str) -> Numbers:
    """Return positions as whole numbers; a problem where one is missing or not a whole number."""
    text = column.str.strip_chars() if column.dtype == pl.String else column
    if not (text.dtype == pl.String or text.dtype.is_numeric()):
        sentence = f"The position column '{column.name}' of {file_name} holds {text.dtype}: give whole numbers."
        return Numbers(_nothing(column), (sentence,))
    numbers = text.cast(pl.Float64, strict=False)
    whole = pl.select(pl.when(numbers.is_finite() & (numbers == numbers.round())).then(numbers)).to_series()
    return _complete(whole.cast(pl.Int64), column, file_name, TimeUnit.UNKNOWN)


def to_seconds(times: pl.Series, unit: TimeUnit) -> pl.Series:
    """Return whole seconds (rounded down), or the numbers as they are where the unit is unknown."""
    return times if unit is TimeUnit.UNKNOWN else times // unit.value


def _whole(values: pl.Series, column: pl.Series, file_name: str) -> Numbers:
    return _complete(values, column, file_name, _unit_of(values))


def _fractional(values: pl.Series, column: pl.Series, file_name: str) -> Numbers:
    usable = values.is_finite() & (values.abs() < _EXACT_IN_FLOAT)
    values = pl.select(pl.when(usable).then(values)).to_series()
    if bool((values == values.round()).all()):
        return _whole(values.cast(pl.Int64), column, file_name)
    unit = _unit_of(values)
    if unit is TimeUnit.SECONDS:
        return _complete((values * 1e6).round().cast(pl.Int64), column, file_name, TimeUnit.MICROSECONDS)
    sentence = (
        f"The time column '{column.name}' of {file_name} holds fractions that are not unix seconds, such as "
        f"{examples(values.filter(values != values.round()).head(1).to_list())}: give whole numbers or dates."
    )
    return Numbers(_nothing(column), (sentence,))


def _dates(text: pl.Series, column: pl.Series, file_name: str) -> Numbers:
    best = _nothing(column)
    for form in (*_DATE_FORMATS, *_DAY_FORMATS):
        read = text.str.to_datetime(form, strict=False, time_unit="us").dt.epoch("us")
        best = read if read.null_count() < best.null_count() else best
    for form in _ZONED_FORMATS:
        read = text.str.to_datetime(form, strict=False, time_unit="us", time_zone="UTC").dt.epoch("us")
        best = read if read.null_count() < best.null_count() else best
    return _complete(best, column, file_name, TimeUnit.MICROSECONDS)


def _complete(values: pl.Series, column: pl.Series, file_name: str, unit: TimeUnit) -> Numbers:
    bad = column.filter(values.is_null())
    if bad.is_empty():
        return Numbers(values, (), unit)
    row = int(values.is_null().arg_max() or 0) + 1
    shown = ["(empty)" if value is None else value for value in bad.unique(maintain_order=True).head(4).to_list()]
    sentence = (
        f"{len(bad)} of {len(column)} values of column '{column.name}' in {file_name} cannot be read, first in data "
        f"row {row}: {examples(shown)}. Times are unix times or dates such as 2024-05-31 18:30:00, all in one form; "
        "positions are whole numbers. Repair these rows or leave them out."
    )
    return Numbers(values, (sentence,), unit)


def _unit_of(values: pl.Series) -> TimeUnit:
    middle = values.abs().median()
    size = float(middle) if isinstance(middle, int | float) else 0.0
    if size >= 1e17:
        return TimeUnit.NANOSECONDS
    if size >= 1e14:
        return TimeUnit.MICROSECONDS
    if size >= 1e11:
        return TimeUnit.MILLISECONDS
    return TimeUnit.SECONDS if size >= 1e8 else TimeUnit.UNKNOWN


def _nothing(column: pl.Series) -> pl.Series:
    return pl.repeat(None, len(column), dtype=pl.Int64, eager=True)
