import json
from pathlib import Path

import networkx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pplr.data import CleaningSettings, DataSettings, GlobalTime, check
from pplr.data.checks import core_levels, quantiles
from pplr.errors import DataError


def write(folder: Path, events: list[str], items: list[str]) -> DataSettings:
    (folder / "events.csv").write_text("\n".join(events))
    (folder / "items.csv").write_text("\n".join(items))
    return DataSettings(events=Path("events.csv"), items=Path("items.csv"))


def test_the_demo_is_clean() -> None:
    report = check(DataSettings(demo="movietweetings"), Path("nowhere"))
    assert (report.users, report.items, report.events) == (4333, 2414, 68055)
    assert report.problems == ()
    assert report.items_without_events == 0
    assert [core.k for core in report.cores][:3] == [2, 3, 5]
    assert report.cores[2].events == 68055
    assert (report.order.ties, report.order.users_with_ties) == (2, 1)
    assert report.text.duplicates == 0
    assert report.split is not None
    assert report.split.test_users == 4333
    assert report.user_events.minimum == 5
    assert json.loads(report.model_dump_json())["split"]["kind"] == "leave-one-out"


MESSY_ITEMS = [
    "item_id,title",
    "0,RED &amp; BLUE SHIRT",
    "1,GREEN SHIRT",
    "2,GREEN SHIRT",
    f"3,{'LONG ' * 60}",
    "4,",
    "5,NEVER SOLD",
]


def test_what_is_wrong_is_counted_and_said(tmp_path: Path) -> None:
    events = [
        "user,item,time",
        "a,0,1",
        "a,1,2",
        "a,1,3",
        "a,1,3",
        "a,2,3",
        "b,0,2",
        "b,4,2",
        "b,9,5",
        "b,3,5",
        "b,1,6",
    ]
    report = check(write(tmp_path, events, MESSY_ITEMS), tmp_path)
    assert report.text.missing == 1
    assert report.text.duplicates == 2
    assert report.text.html_entities == 1
    assert report.text.all_capitals == 5
    assert report.text.longer_than_limit == 1
    assert (report.users, report.items, report.events) == (2, 5, 7)
    assert report.items_without_events == 1
    assert report.order.ordered_by == "time"
    assert report.order.repeats == 1
    assert report.order.ties == 1
    assert report.split is not None
    assert report.split.ties_at_cut == 1
    assert report.split.test_unseen == 0.5
    said = "\n".join(report.problems)
    assert "1 item without a title: '4'" in said
    assert "1 event of 1 item" in said
    assert len(report.problems) == 2
    warned = "\n".join(report.warnings)
    for words in (
        "all capitals",
        "share their title",
        "longer than",
        "no events",
        "tie with",
        "the cut of",
        "never occur",
    ):
        assert words in warned
    assert any("Dropped 1 events equal" in note for note in report.notes)


def test_problems_vanish_when_the_settings_drop_them(tmp_path: Path) -> None:
    events = ["user,item,time", "a,0,1", "a,1,2", "a,4,3", "a,2,4"]
    settings = write(tmp_path, events, MESSY_ITEMS)
    settings = settings.model_copy(update={"cleaning": CleaningSettings(missing_titles="drop")})
    assert check(settings, tmp_path).problems == ()


def test_an_impossible_split_is_a_problem_not_a_crash(tmp_path: Path) -> None:
    report = check(write(tmp_path, ["user,item", "a,0", "b,1"], MESSY_ITEMS[:3]), tmp_path)
    assert report.split is None
    assert "No user has three events" in report.problems[0]
    assert report.order.ordered_by == "file order"
    assert "the file's order is taken" in report.warnings[-1]


def test_a_split_column_that_trains_on_the_future(tmp_path: Path) -> None:
    events = ["user,item,pos,split", "a,0,0,train", "a,1,1,test", "a,2,2,train", "b,0,0,train", "b,0,1,valid"]
    settings = write(tmp_path, events, MESSY_ITEMS[:4])
    report = check(settings.model_copy(update={"split": GlobalTime()}), tmp_path)
    assert report.split is not None
    assert report.split.late_training == 1
    assert any("the future is trained on" in warning for warning in report.warnings)
    ignored = check(settings, tmp_path)
    assert any("which 'leave-one-out' ignores" in warning for warning in ignored.warnings)


def test_repeated_targets_and_dates(tmp_path: Path) -> None:
    days = ["2024-05-01", "2024-05-02", "2024-05-03", "2024-05-04"]
    events = ["user,item,date", *(f"a,{item},{day}" for item, day in zip("0121", days, strict=True))]
    report = check(write(tmp_path, events, MESSY_ITEMS[:4]), tmp_path)
    assert (report.order.first, report.order.last) == ("2024-05-01 00:00", "2024-05-04 00:00")
    assert report.split is not None
    assert report.split.test_repeated == 1.0
    assert report.split.training_after_test == 0.0


def test_training_later_than_the_median_test_event(tmp_path: Path) -> None:
    rows = [f"{user},{step},{start + step}" for user, start in (("a", 0), ("b", 0), ("c", 100)) for step in range(4)]
    items = ["id,title", *(f"{n},T{n}" for n in range(4))]
    report = check(write(tmp_path, ["user,item,time", *rows], items), tmp_path)
    assert report.split is not None
    assert report.split.training_after_test == pytest.approx(2 / 6)


def test_what_is_unreadable_hides_nothing_else(tmp_path: Path) -> None:
    events = ["user,item,time", "a,0,1", "a,9,soon", "a,4,3"]
    with pytest.raises(DataError) as raised:
        check(write(tmp_path, events, MESSY_ITEMS), tmp_path)
    sentences = str(raised.value).splitlines()
    assert ["'soon'" in sentences[0], "without a title" in sentences[1], "does not have" in sentences[2]] == [True] * 3


def test_unreadable_tables_are_raised(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'soon'"):
        check(write(tmp_path, ["user,item,time", "a,0,1", "a,0,soon"], MESSY_ITEMS), tmp_path)


@settings(deadline=None)
@given(st.sets(st.tuples(st.integers(0, 11), st.integers(0, 11)), min_size=1, max_size=120))
def test_core_levels_equal_those_of_a_graph_library(pairs: set[tuple[int, int]]) -> None:
    graph = networkx.Graph([(("user", user), ("item", item)) for user, item in pairs])
    users, items = (np.array(column, dtype=np.int64) for column in zip(*sorted(pairs), strict=True))
    levels = core_levels(users, items)
    largest = max(networkx.core_number(graph).values())
    assert [level.k for level in levels] == sorted({k for k in (2, 3, 5, 10, largest) if 2 <= k <= largest})
    for level in levels:
        core = networkx.k_core(graph, level.k)
        assert level.users == sum(kind == "user" for kind, _ in core)
        assert level.items == sum(kind == "item" for kind, _ in core)
        assert level.events == core.number_of_edges()


def test_quantiles_of_nothing_and_of_something() -> None:
    assert quantiles([]).maximum == 0
    some = quantiles(range(101))
    assert (some.minimum, some.q25, some.median, some.q75, some.q95, some.maximum) == (0, 25, 50, 75, 95, 100)
