from collections import Counter

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from pplr.data.cleaning import CleaningSettings, clean_texts, training_core, unescape


def items(*titles: str) -> pl.DataFrame:
    return pl.DataFrame(
        {"id": [str(n) for n in range(len(titles))], "title": titles, "brand": ["a &lt; b"] * len(titles)}
    )


def test_each_step_does_its_work_and_counts_it() -> None:
    cleaned, notes = clean_texts(
        items("Tom &amp;amp; Jerry", " two\n\u00a0 spaces ", "plain", "abcdef ghijklmnopqrs"),
        CleaningSettings(title_length=12, attribute_length=3),
    )
    assert cleaned["title"].to_list() == ["Tom & Jerry", "two spaces", "plain", "abcdef ghijk"]
    assert cleaned["brand"].to_list() == ["a <"] * 4
    assert {note.step: note.count for note in notes} == {
        "html-entities": 5,
        "white-space": 1,
        "titles-length": 1,
        "attributes-length": 4,
    }


def test_steps_that_are_off_change_nothing() -> None:
    frame = items("a &amp; b", "x  y")
    settings = CleaningSettings(unescape_html=False, fold_whitespace=False, attribute_length=100)
    cleaned, notes = clean_texts(frame, settings)
    assert cleaned.equals(frame)
    assert notes == []


def test_ids_are_never_cleaned() -> None:
    frame = pl.DataFrame({"id": ["a&amp;b"], "title": ["T"]})
    assert clean_texts(frame, CleaningSettings(title_length=1))[0]["id"].to_list() == ["a&amp;b"]


def test_length_counts_characters_not_bytes() -> None:
    cleaned, _ = clean_texts(items("\u897f\u73ed\u7259\u83b1\u6602\u8bfa\u5c14"), CleaningSettings(title_length=3))
    assert cleaned["title"].to_list() == ["\u897f\u73ed\u7259"]


def test_entities_escaped_more_than_once() -> None:
    assert unescape("&amp;amp;quot;x&#39;") == "\"x'"
    assert unescape("AT&T; R&D") == "AT&T; R&D"


def brute_force_core(pairs: list[tuple[int, int]], core: int) -> set[tuple[int, int]]:
    left = list(pairs)
    while True:
        users, things = Counter(user for user, _ in left), Counter(item for _, item in left)
        stay = [(user, item) for user, item in left if users[user] >= core and things[item] >= core]
        if len(stay) == len(left):
            return set(stay)
        left = stay


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7), st.booleans()), max_size=80),
    st.integers(1, 5),
)
def test_the_core_is_that_of_the_training_events(events: list[tuple[int, int, bool]], core: int) -> None:
    columns = np.array(events, dtype=np.int64).reshape(-1, 3)
    users, things, training = columns[:, 0], columns[:, 1], columns[:, 2].astype(bool)
    kept_users, kept_items = training_core(users, things, training, core, user_count=8, item_count=8)
    expected = brute_force_core([(user, item) for user, item, trains in events if trains], core)
    assert set(np.flatnonzero(kept_users)) == {user for user, _ in expected}
    assert set(np.flatnonzero(kept_items)) == {item for _, item in expected}
