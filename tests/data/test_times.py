from datetime import UTC, date, datetime

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pplr.data.times import TimeUnit, read_positions, read_times, to_seconds

MOMENT = datetime(2024, 5, 31, 18, 30, 15, tzinfo=UTC)
SECONDS = int(MOMENT.timestamp())


@pytest.mark.parametrize(
    ("values", "unit", "seconds"),
    [
        ([str(SECONDS)], TimeUnit.SECONDS, SECONDS),
        ([str(SECONDS * 1000)], TimeUnit.MILLISECONDS, SECONDS),
        ([str(SECONDS * 1_000_000)], TimeUnit.MICROSECONDS, SECONDS),
        ([str(SECONDS * 1_000_000_000)], TimeUnit.NANOSECONDS, SECONDS),
        ([f"{SECONDS}.0"], TimeUnit.SECONDS, SECONDS),
        ([f"{SECONDS}.75"], TimeUnit.MICROSECONDS, SECONDS),
        (["8.81250949E8"], TimeUnit.SECONDS, 881250949),
        (["2024-05-31 18:30:15"], TimeUnit.MICROSECONDS, SECONDS),
        (["2024-05-31T18:30:15Z"], TimeUnit.MICROSECONDS, SECONDS),
        (["2024-05-31T20:30:15+02:00"], TimeUnit.MICROSECONDS, SECONDS),
        (["2024-05-31 18:30"], TimeUnit.MICROSECONDS, SECONDS - 15),
        (["2024-05-31"], TimeUnit.MICROSECONDS, SECONDS - SECONDS % 86400),
        ([17], TimeUnit.UNKNOWN, 17),
        ([float(SECONDS)], TimeUnit.SECONDS, SECONDS),
        ([MOMENT], TimeUnit.MICROSECONDS, SECONDS),
        ([date(2024, 5, 31)], TimeUnit.MICROSECONDS, SECONDS - SECONDS % 86400),
    ],
)
def test_times_in_many_forms(values: list[object], unit: TimeUnit, seconds: int) -> None:
    numbers = read_times(pl.Series("when", values), "events.csv")
    assert numbers.problems == ()
    assert numbers.unit is unit
    assert to_seconds(numbers.values, numbers.unit).to_list() == [seconds]


def test_fractions_keep_the_order_within_a_second() -> None:
    numbers = read_times(pl.Series("t", [f"{SECONDS}.25", f"{SECONDS}.5", f"{SECONDS}"]), "e.csv")
    assert numbers.values.to_list() == [SECONDS * 1_000_000 + part for part in (250_000, 500_000, 0)]


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        (["1700000000", "yesterday"], "yesterday"),
        (["2024-05-31", "31.5.2024"], "31.5.2024"),
        (["1700000000", None], "empty"),
        ([1700000000.0, float("nan")], "NaN"),
    ],
)
def test_what_cannot_be_read_is_shown_with_its_row(values: list[object], shown: str) -> None:
    sentence = read_times(pl.Series("when", values), "events.csv").problems[0]
    assert shown.lower() in sentence.lower()
    assert "first in data row 2" in sentence
    assert "events.csv" in sentence


def test_times_of_another_type_are_refused() -> None:
    assert "Boolean" in read_times(pl.Series("when", [True]), "e.csv").problems[0]


@settings(deadline=None)
@given(st.lists(st.integers(-(2**40), 2**40), min_size=1))
def test_whole_numbers_come_back_whether_as_text_or_number(values: list[int]) -> None:
    assert read_times(pl.Series("t", values), "e").values.to_list() == values
    assert read_times(pl.Series("t", [str(value) for value in values]), "e").values.to_list() == values


def test_positions_are_whole_numbers() -> None:
    assert read_positions(pl.Series("pos", ["0", " 1", "2.0"]), "e.csv").values.to_list() == [0, 1, 2]
    assert "'1.5'" in read_positions(pl.Series("pos", ["0", "1.5"]), "e.csv").problems[0]
    assert "'first'" in read_positions(pl.Series("pos", ["first"]), "e.csv").problems[0]
