import polars as pl
import pytest

from pplr.data.columns import EVENT_COLUMNS, ITEM_COLUMNS, ColumnNames, choose_columns
from pplr.data.ids import read_ids
from pplr.data.tables import (
    EventTable,
    Findings,
    drop_duplicates,
    drop_low_values,
    drop_unknown_items,
    drop_untitled,
    event_table,
    item_table,
    note_duplicate_titles,
)


def events_of(columns: dict[str, list[object]]) -> tuple[EventTable, Findings]:
    frame, findings = pl.DataFrame(columns), Findings()
    chosen = choose_columns(frame.columns, EVENT_COLUMNS, ColumnNames(), "events.csv").columns
    return event_table(frame, chosen, "events.csv", findings), findings


def items_of(columns: dict[str, list[object]]) -> tuple[pl.DataFrame, Findings]:
    frame, findings = pl.DataFrame(columns), Findings()
    chosen = choose_columns(frame.columns, ITEM_COLUMNS, ColumnNames(), "items.csv").columns
    return item_table(frame, chosen, "items.csv", findings), findings


def test_events_are_sorted_by_user_and_time_and_ties_keep_the_order_of_the_file() -> None:
    table, findings = events_of(
        {"user": ["b", "a", "a", "a", "b"], "item": ["1", "2", "3", "4", "5"], "time": ["9", "7", "5", "5", "1"]}
    )
    assert table.frame.select("user", "item").rows() == [("a", "3"), ("a", "4"), ("a", "2"), ("b", "5"), ("b", "1")]
    assert table.frame["tied"].to_list() == [False, True, False, False, False]
    assert findings.problems == []
    (note,) = findings.notes
    assert (note.step, note.count) == ("sorted", 2)


def test_position_orders_where_times_tie() -> None:
    table, findings = events_of(
        {"user": ["a"] * 3, "item": ["1", "2", "3"], "time": ["5", "5", "5"], "position": ["2", "0", "1"]}
    )
    assert table.frame["item"].to_list() == ["2", "3", "1"]
    assert not table.frame["tied"].any()
    assert findings.problems == []


def test_time_that_runs_backwards_along_the_positions_is_a_problem() -> None:
    _, findings = events_of({"user": ["a", "a"], "item": ["1", "2"], "time": ["9", "5"], "position": ["0", "1"]})
    assert "Time runs backwards along the positions of 1 users" in findings.problems[0]
    assert "user 'a' at position 1" in findings.problems[0]


def test_without_time_and_position_the_file_orders() -> None:
    table, findings = events_of({"user": ["b", "a", "b"], "item": ["3", "2", "1"]})
    assert table.frame["item"].to_list() == ["2", "3", "1"]
    assert [note.step for note in findings.notes] == ["file-order"]


def test_everything_wrong_with_the_events_is_said_at_once() -> None:
    _, findings = events_of(
        {
            "user": ["a", "", None, "a"],
            "item": ["1", "2", "3", " "],
            "time": ["1", "2", "x", "4"],
            "rating": ["5", "good", "1", "2"],
            "split": ["train", "Valid", "holdout", "test"],
            "silo": ["north", "north", "", "south"],
        }
    )
    said = "\n".join(findings.problems)
    assert "2 ids in column 'user' of events.csv are empty, in data rows '2', '3'" in said
    assert "1 ids in column 'item' of events.csv are empty, in data rows '4'" in said
    assert "'x'" in said
    assert "'good'" in said
    assert "'holdout'" in said
    assert "1 events in events.csv have no silo" in said
    assert "user 'a' in 'north', 'south'" in said
    assert "'north/a'" in said


def test_numeric_ids_become_text_and_are_noted() -> None:
    whole = read_ids(pl.Series("user", [1, 20, 300]), "e.parquet")
    assert whole.values.to_list() == ["1", "20", "300"]
    assert (whole.notes[0].step, whole.notes[0].count) == ("numeric-ids", 3)
    assert read_ids(pl.Series("user", [1.0, 20.0]), "e.parquet").values.to_list() == ["1", "20"]
    missing = read_ids(pl.Series("user", [1.0, float("nan")]), "e.parquet")
    assert "in data rows '2'" in missing.problems[0]
    assert "fractions" in read_ids(pl.Series("user", [1.5]), "e.parquet").problems[0]
    assert "Boolean" in read_ids(pl.Series("user", [True]), "e.parquet").problems[0]
    categories = pl.Series("user", ["a", "b"], dtype=pl.Categorical)
    assert read_ids(categories, "e.parquet").values.to_list() == ["a", "b"]


def test_zeros_and_spaces_of_ids() -> None:
    ids = read_ids(pl.Series("item", ["0385002", " 7 "]), "e.csv")
    assert ids.values.to_list() == ["0385002", "7"]
    assert [note.step for note in ids.notes] == ["id-spaces"]


def test_items_keep_their_order_and_attributes_become_text() -> None:
    items, findings = items_of(
        {"item_id": ["b", "a"], "title": ["B", None], "year": [1995, None], "tags": [{"x": 1}, {"x": 2}]}
    )
    assert items.rows(named=True) == [{"id": "b", "title": "B", "year": "1995"}, {"id": "a", "title": "", "year": ""}]
    assert "Left out column 'tags'" in findings.notes[0].text


def test_an_attribute_called_like_our_columns_stays() -> None:
    items, _ = items_of({"item_id": ["a"], "title": ["A"], "id": ["other"]})
    assert items.columns == ["id", "title", "id_"]


def test_repeated_item_ids_are_a_problem_and_repeated_titles_are_not() -> None:
    items, findings = items_of({"item_id": ["a", "a", "b", "c"], "title": ["X", "Y", "Z", "Z"]})
    assert "1 item ids occur more than once in items.csv: 'a'" in findings.problems[0]
    note_duplicate_titles(items, findings)
    assert (findings.notes[0].step, findings.notes[0].count) == ("duplicate-titles", 2)
    assert len(findings.problems) == 1


@pytest.mark.parametrize("drop", [True, False])
def test_missing_titles(drop: bool) -> None:
    items, findings = items_of({"item_id": ["a", "b"], "title": ["A", ""]})
    assert drop_untitled(items, drop, findings)["id"].to_list() == ["a"]
    sentences = [note.text for note in findings.notes] if drop else findings.problems
    assert "1 item without a title: 'b'" in sentences[0]
    assert bool(findings.problems) is not drop


@pytest.mark.parametrize("drop", [True, False])
def test_events_of_unknown_items_and_lost_zeros(drop: bool) -> None:
    events, findings = events_of(
        {"user": ["u"] * 5, "item": ["385002", "7", "zz", "12.0", "gone"], "position": [0, 1, 1, 2, 3]}
    )
    items, _ = items_of({"item_id": ["0385002", "7", "012"], "title": ["A", "B", "C"]})
    kept = drop_unknown_items(events, items, pl.Series(["gone"]), drop, findings)
    assert kept.frame["item"].to_list() == ["7"]
    assert not kept.frame["tied"].any()
    (sentence,) = [note.text for note in findings.notes] if drop else findings.problems
    assert "3 events of 3 items that the items file does not have" in sentence
    assert "2 of these ids equal an item's but for zeros, such as '12.0' for '012'" in sentence


def test_other_unknown_items_are_not_taken_for_lost_zeros() -> None:
    events, findings = events_of({"user": ["u"], "item": ["8"]})
    items, _ = items_of({"item_id": ["07"], "title": ["A"]})
    drop_unknown_items(events, items, pl.Series([], dtype=pl.String), False, findings)
    assert "zeros" not in findings.problems[0]


def test_duplicate_events() -> None:
    columns: dict[str, list[object]] = {"user": ["u"] * 4, "item": ["1", "1", "1", "2"], "time": [5, 5, 6, 6]}
    events, findings = events_of(columns)
    kept = drop_duplicates(events, findings)
    assert kept.frame.select("item", "time", "tied").rows() == [("1", 5, False), ("1", 6, False), ("2", 6, True)]
    assert (findings.notes[-1].step, findings.notes[-1].count) == ("duplicate-events", 1)
    del columns["time"]
    unordered, findings = events_of(columns)
    assert drop_duplicates(unordered, findings) is unordered


def test_low_values() -> None:
    events, findings = events_of({"user": ["u"] * 3, "item": ["1", "2", "3"], "rating": ["4", "3.5", None]})
    assert drop_low_values(events, 4, findings).frame["item"].to_list() == ["1"]
    assert findings.notes[-1].count == 2
    valueless, findings = events_of({"user": ["u"], "item": ["1"]})
    drop_low_values(valueless, 4, findings)
    assert "data.columns.value" in findings.problems[0]
