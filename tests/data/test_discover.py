import gzip
from pathlib import Path

import pytest

from pplr.data import discover, load_dataset
from pplr.errors import DataError


@pytest.mark.parametrize(
    ("events", "items"),
    [
        ("interactions.csv.gz", "items.csv.gz"),
        ("events.csv", "items.csv"),
        ("events.parquet", "items.parquet"),
        ("ratings.dat", "movies.dat"),
        ("ratings.csv", "movies.csv"),
        ("u.data", "u.item"),
        ("ml-100k.inter", "ml-100k.item"),
    ],
)
def test_usual_names_are_found(tmp_path: Path, events: str, items: str) -> None:
    for name in (events, items, "README.md", "users.dat"):
        (tmp_path / name).touch()
    settings = discover(tmp_path)
    assert settings.events == tmp_path.resolve() / events
    assert settings.items == tmp_path.resolve() / items


def test_what_is_found_loads(tmp_path: Path) -> None:
    rows = "user_id,item_id,timestamp\n" + "".join(f"1,0{n},{n}\n" for n in range(4))
    (tmp_path / "interactions.csv.gz").write_bytes(gzip.compress(rows.encode()))
    (tmp_path / "items.csv.gz").write_bytes(gzip.compress(b"item_id,title\n00,A\n01,B\n02,C\n03,D\n"))
    assert load_dataset(discover(tmp_path), Path("elsewhere")).items[0].tolist() == [0, 1, 2, 3]


def test_nothing_or_too_much_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There is no folder"):
        discover(tmp_path / "none")
    (tmp_path / "sales.xlsx").touch()
    with pytest.raises(DataError, match=r"which holds: 'sales.xlsx'.*interactions\.csv and items\.csv"):
        discover(tmp_path)
    with pytest.raises(DataError, match="is a file"):
        discover(tmp_path / "sales.xlsx")
    for name in ("events.csv", "events.parquet", "items.csv"):
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=r"more than one data set: 'events\.csv \+ items\.csv'"):
        discover(tmp_path)
