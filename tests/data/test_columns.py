import pytest

from pplr.data.columns import EVENT_COLUMNS, ITEM_COLUMNS, ColumnNames, choose_columns


@pytest.mark.parametrize(
    ("present", "expected"),
    [
        (["user_id", "item_id", "timestamp"], {"user": "user_id", "item": "item_id", "time": "timestamp"}),
        (["userId", "movieId", "rating"], {"user": "userId", "item": "movieId", "value": "rating"}),
        (["User", "iid", "pos", "split"], {"user": "User", "item": "iid", "position": "pos", "split": "split"}),
        (["uid", "Product ID", "silo"], {"user": "uid", "item": "Product ID", "silo": "silo"}),
        (["asin", "item_id", "user_id"], {"user": "user_id", "item": "item_id"}),
    ],
)
def test_well_known_names_are_recognised(present: list[str], expected: dict[str, str]) -> None:
    chosen = choose_columns(present, EVENT_COLUMNS, ColumnNames(), "events.csv")
    assert chosen.columns == expected
    assert chosen.problems == ()


def test_given_names_win_and_empty_names_ignore() -> None:
    names = ColumnNames(item="asin", time="")
    chosen = choose_columns(["user_id", "item_id", "asin", "timestamp"], EVENT_COLUMNS, names, "events.csv")
    assert chosen.columns == {"user": "user_id", "item": "asin"}


def test_a_given_column_is_not_taken_twice() -> None:
    chosen = choose_columns(["id", "name", "title"], ITEM_COLUMNS, ColumnNames(id="id", title="name"), "items.csv")
    assert chosen.columns == {"id": "id", "title": "name"}
    twice = choose_columns(["a", "b"], EVENT_COLUMNS, ColumnNames(user="a", item="a"), "events.csv")
    assert "data.columns.user and data.columns.item both name 'a'" in twice.problems[0]


def test_all_problems_are_named_at_once_with_what_is_there() -> None:
    names = ColumnNames(user="visiter", time="when")
    chosen = choose_columns(["visitor", "thing"], EVENT_COLUMNS, names, "log.csv")
    assert len(chosen.problems) == 3
    assert "Did you mean 'visitor'?" in chosen.problems[0]
    assert "data.columns.time" in chosen.problems[1]
    assert "no column that is recognised as item" in chosen.problems[2]
    assert "'visitor', 'thing'" in chosen.problems[2]


def test_a_missing_header_line_is_recognised() -> None:
    chosen = choose_columns(["1", "168", "5"], EVENT_COLUMNS, ColumnNames(), "log.csv")
    assert "looks like data, not like column names" in chosen.problems[0]
