"""Damaged or made-up messages: each is refused in a sentence, or is what a silo may send. 10,000 in the benchmark."""

from __future__ import annotations

import importlib
import random
from pathlib import Path
from typing import Any

import pytest

from pplr.errors import RunError
from pplr.silos import codec
from pplr.silos.announcement import Announcement
from pplr.silos.parcel import Parcel, digest
from pplr.silos.records import ENCODING

SCRIPTS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def fuzz(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    return importlib.import_module("fuzzed_messages")


def test_no_spoilt_message_is_taken_for_another(fuzz):
    draw, refused = random.Random(11), 0
    for _ in range(2_000):
        message = fuzz.spoilt(draw)
        reason = fuzz.taken(message)
        assert (reason is None) == fuzz.acceptable(message), (message, reason)
        refused += reason is not None
    assert 1_400 < refused < 2_000, "some that are left are what a silo may send"


def test_the_second_reading_takes_what_is_honest_and_nothing_else(fuzz):
    parcel = codec.update_parcel(fuzz.HONEST)
    row = parcel.row.tobytes()
    honest = fuzz.Spoilt(parcel.head, row, digest(parcel.head, row), ENCODING, "")
    assert fuzz.acceptable(honest) and fuzz.taken(honest) is None
    for other in (parcel.head.replace(b'"round": 3', b'"round": 2'), parcel.head.replace(b"1.25", b"125.0")):
        wrong = fuzz.Spoilt(other, row, digest(other, row), ENCODING, "")
        assert not fuzz.acceptable(wrong) and fuzz.taken(wrong)


def test_made_up_fields_of_all_kinds_are_refused(fuzz):
    draw = random.Random(8)
    names = ["client", "round", "part", "loss", "users", "metrics", "improved", "seconds", "name", "settings", "specs"]
    kinds: list[tuple[str, Any]] = [
        ("report", codec.ReportFields), ("announcement", Announcement), ("first row", codec.FirstRowFields),
    ]  # fmt: skip
    for _ in range(2_000):
        kind, fields = draw.choice(kinds)
        values = [*fuzz.VALUES, b"\xff"]
        made_up = {draw.choice(names): draw.choice(values) for _ in range(draw.randint(0, 9))}
        try:
            codec.parsed(Parcel(kind, made_up), kind, fields)
        except RunError:
            continue
        assert made_up == {"specs": []}, "a layout without parameters is well-formed, and fits no row"
