import logging
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pplr.data import CleaningSettings, ColumnNames, DataSettings, GlobalTime, Part, load, load_dataset
from pplr.data.load import load_catalogue
from pplr.errors import DataError

ITEMS = "item_id,title,genres\n" + "".join(f"0{n},Film {n},Drama|War\n" for n in range(6))


def write(folder: Path, events: str, items: str = ITEMS) -> DataSettings:
    (folder / "events.csv").write_text(events)
    (folder / "items.csv").write_text(items)
    return DataSettings(events=Path("events.csv"), items=Path("items.csv"))


def test_a_small_data_set_from_file_to_codes(tmp_path: Path) -> None:
    rows = ["u2,03,40", "u1,02,30", "u1,01,10", "u1,05,20", "u2,00,5", "u1,02,40"]
    settings = write(tmp_path, "user,item,time\n" + "\n".join(rows))
    dataset = load_dataset(settings, tmp_path)
    assert dataset.user_ids == ("u1", "u2")
    assert dataset.catalogue.ids == ("00", "01", "02", "03", "04", "05")
    assert dataset.catalogue.titles[4] == "Film 4"
    assert dataset.catalogue.attributes["genres"][0] == "Drama|War"
    assert [row.tolist() for row in dataset.items] == [[1, 5, 2, 2], [0, 3]]
    assert dataset.parts.tolist() == [0, 0, 1, 2, 0, 0]
    assert dataset.times is not None
    assert dataset.times.tolist() == [10, 20, 30, 40, 5, 40]
    assert dataset.silos is None
    test = dataset.queries(Part.TEST)
    assert test.users.tolist() == [0]
    assert test.histories[0].tolist() == [1, 5, 2]
    assert test.targets[0].tolist() == [2]


@pytest.mark.parametrize("k_core", [0, 2])
def test_the_catalogue_alone_is_that_of_the_data_set(tmp_path: Path, k_core: int) -> None:
    rows = [f"u{u},0{(u + n) % 5},{n}" for u in range(3) for n in range(12)]
    items = ITEMS.replace("Film 2", "")  # dropped for want of a title
    settings = write(tmp_path, "user,item,time\n" + "\n".join(rows), items)
    cleaning = CleaningSettings(k_core=k_core, missing_titles="drop", unknown_items="drop")
    settings = settings.model_copy(update={"cleaning": cleaning})
    assert load_catalogue(settings, tmp_path) == load_dataset(settings, tmp_path).catalogue
    if not k_core:
        (tmp_path / "events.csv").unlink()
        assert load_catalogue(settings, tmp_path).ids == ("00", "01", "03", "04", "05")


def test_the_demo_is_the_five_core_of_movietweetings(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "pplr.data"):
        loaded = load(DataSettings(demo="movietweetings"), Path("nowhere"))
    dataset = loaded.dataset
    assert (len(dataset.user_ids), len(dataset.catalogue), len(dataset.parts)) == (4333, 2414, 68055)
    assert np.bincount(dataset.parts).tolist() == [68055 - 2 * 4333, 4333, 4333]
    assert dataset.catalogue.ids[0] == "0013442"
    assert dataset.catalogue.titles[1] == "Bronenosets Potyomkin (1925)"
    assert dataset.times is not None
    within = np.ones(len(dataset.times), bool)
    within[dataset.items.offsets[:-1]] = False
    steps = np.diff(dataset.times, prepend=0)[within]
    assert (steps.min(), int((steps == 0).sum())) == (0, 2)
    assert [note.text for note in loaded.notes] == [record.getMessage() for record in caplog.records]
    assert {note.step for note in loaded.notes} == {"split"}


def test_parquet_gives_the_same_data_set_as_csv(tmp_path: Path) -> None:
    settings = write(tmp_path, "user,item,time\n" + "".join(f"7,0{n},{n}\n" for n in range(5)))
    for name in ("events", "items"):
        pl.read_csv(tmp_path / f"{name}.csv", infer_schema=False).write_parquet(tmp_path / f"{name}.parquet")
    other = DataSettings(events=Path("events.parquet"), items=Path("items.parquet"))
    one, two = load_dataset(settings, tmp_path), load_dataset(other, tmp_path)
    assert one.catalogue == two.catalogue
    assert one.user_ids == two.user_ids
    assert one.items.values.tolist() == two.items.values.tolist()


def test_the_order_of_the_file_does_not_matter_where_times_differ(tmp_path: Path) -> None:
    rows = [f"u{user},0{(user + step) % 6},{100 * step + user}" for user in range(5) for step in range(6)]
    header = "user,item,time\n"
    one = load_dataset(write(tmp_path, header + "\n".join(rows)), tmp_path)
    two = load_dataset(write(tmp_path, header + "\n".join(reversed(rows))), tmp_path)
    assert one.items.values.tolist() == two.items.values.tolist()
    assert one.parts.tolist() == two.parts.tolist()


def test_times_in_milliseconds_leave_as_seconds_but_order_finer(tmp_path: Path) -> None:
    start = 1_700_000_000_000
    rows = [f"u,0{n},{start + 100 * (5 - n)}" for n in range(6)]
    dataset = load_dataset(write(tmp_path, "user,item,time\n" + "\n".join(rows)), tmp_path)
    assert dataset.items[0].tolist() == [5, 4, 3, 2, 1, 0]
    assert dataset.times is not None
    assert set(dataset.times.tolist()) == {start // 1000}


def test_a_given_split_and_silo(tmp_path: Path) -> None:
    rows = ["a,00,1,train,north", "a,01,2,valid,north", "b,02,1,train,south", "b,03,2,test,south"]
    settings = write(tmp_path, "user,item,pos,split,silo\n" + "\n".join(rows))
    dataset = load_dataset(settings.model_copy(update={"split": GlobalTime()}), tmp_path)
    assert dataset.parts.tolist() == [0, 1, 0, 2]
    assert dataset.silos == ("north", "south")
    assert dataset.times is None


def test_the_core_drops_users_and_items_everywhere(tmp_path: Path) -> None:
    # 00 and 01 occur in training twice or more, 04 only as a target; user c has one training event
    rows = [("a", "0 1 0 1 4 1"), ("b", "1 0 1 0 0 5"), ("c", "0 1 2")]
    lines = [f"{user},0{item},{step}" for user, steps in rows for step, item in enumerate(steps.split())]
    settings = write(tmp_path, "user,item,time\n" + "\n".join(lines))
    settings = settings.model_copy(update={"cleaning": CleaningSettings(k_core=2, duplicate_events="keep")})
    loaded = load(settings, tmp_path)
    assert loaded.dataset.catalogue.ids == ("00", "01")
    assert loaded.dataset.user_ids == ("a", "b")
    assert [row.tolist() for row in loaded.dataset.items] == [[0, 1, 0, 1, 1], [1, 0, 1, 0, 0]]
    assert loaded.dataset.parts.tolist() == [0, 0, 0, 0, 2, 0, 0, 0, 0, 1]
    assert "dropped 1 of 3 users and 4 of 6 items" in loaded.notes[-1].text


def test_a_core_that_leaves_too_little_is_an_error(tmp_path: Path) -> None:
    settings = write(tmp_path, "user,item,time\n" + "".join(f"7,0{n},{n}\n" for n in range(5)))
    with pytest.raises(DataError, match="50-core of the training events leaves 0 events"):
        load(settings.model_copy(update={"cleaning": CleaningSettings(k_core=50)}), tmp_path)


def test_untitled_items_go_with_their_events_when_asked(tmp_path: Path) -> None:
    settings = write(tmp_path, "user,item,time\n" + "".join(f"7,0{n},{n}\n" for n in range(6)), ITEMS + "09,&nbsp;,\n")
    with pytest.raises(DataError, match="1 item without a title: '09'"):
        load(settings, tmp_path)
    settings = write(tmp_path, "user,item,time\n" + "".join(f"7,0{n},{n}\n" for n in (0, 1, 2, 3, 9)), ITEMS + "09,,\n")
    loaded = load(settings.model_copy(update={"cleaning": CleaningSettings(missing_titles="drop")}), tmp_path)
    assert "09" not in loaded.dataset.catalogue.ids
    assert len(loaded.dataset.parts) == 4


def test_problems_of_both_files_come_together(tmp_path: Path) -> None:
    settings = write(tmp_path, "visitor,item,time\n1,2,3\n", "id,label\n2,x\n")
    with pytest.raises(DataError) as caught:
        load(settings, tmp_path)
    assert "events.csv has no column that is recognised as user" in str(caught.value)
    assert "items.csv has no column that is recognised as title" in str(caught.value)
    settings = write(tmp_path, "user,item,time\n1,2,x\n", ITEMS + "01,Again,\n")
    with pytest.raises(DataError) as caught:
        load(settings, tmp_path)
    assert "'x'" in str(caught.value)
    assert "more than once" in str(caught.value)
    assert "that the items file does not have" in str(caught.value)


def test_nothing_left_after_cleaning_is_an_error(tmp_path: Path) -> None:
    settings = write(tmp_path, "user,item,rating\n1,01,3\n")
    settings = settings.model_copy(update={"cleaning": CleaningSettings(minimum_value=4)})
    with pytest.raises(DataError, match="No event is left after cleaning"):
        load(settings, tmp_path)


def test_columns_can_be_named(tmp_path: Path) -> None:
    settings = write(tmp_path, "who,what,n\n" + "".join(f"7,0{n},{9 - n}\n" for n in range(5)))
    columns = ColumnNames(user="who", item="what", position="n")
    dataset = load_dataset(settings.model_copy(update={"columns": columns}), tmp_path)
    assert dataset.items[0].tolist() == [4, 3, 2, 1, 0]
