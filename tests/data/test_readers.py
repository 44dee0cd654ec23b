import gzip
from pathlib import Path

import polars as pl
import pytest

from pplr.data.readers import Format, format_of, read_table
from pplr.errors import DataError

ROWS = [("007", "0385002", "1363061522"), ("8", 'x,\n"y"; z', "2")]


def delimited(separator: str) -> str:
    def cell(text: str) -> str:
        quoted = text.replace('"', '""')
        return f'"{quoted}"' if any(mark in text for mark in '",;|\t\n') else text

    lines = [("user_id", "item_id", "timestamp"), *ROWS]
    return "\n".join(separator.join(cell(text) for text in line) for line in lines) + "\n"


@pytest.mark.parametrize("separator", [",", "\t", ";", "|"])
@pytest.mark.parametrize("form", ["plain", "gzip", "windows", "with blank lines"])
def test_delimited_files_in_every_form(tmp_path: Path, separator: str, form: str) -> None:
    content = delimited(separator).encode()
    if form == "windows":
        content = b"\xef\xbb\xbf" + content.replace(b'x,\n"', b'x,@"').replace(b"\n", b"\r\n").replace(b'@"', b'\n"')
    if form == "with blank lines":
        content = content.replace(b"timestamp\n", b"timestamp\n\n") + b"\n\n"
    path = tmp_path / ("events.csv.gz" if form == "gzip" else "events.csv")
    path.write_bytes(gzip.compress(content) if form == "gzip" else content)
    frame = read_table(path, "auto", "events")
    assert frame.columns == ["user_id", "item_id", "timestamp"]
    assert frame.rows() == ROWS


def test_titles_with_commas_do_not_mislead_the_separator(tmp_path: Path) -> None:
    path = tmp_path / "items.tsv"
    path.write_text("item_id\ttitle\n1\tOne, two, three\n2\tFour, five, six\n")
    assert read_table(path, "auto", "items")["title"].to_list() == ["One, two, three", "Four, five, six"]


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
def test_parquet_keeps_types_and_joins_lists(tmp_path: Path, packed: bool) -> None:
    path = tmp_path / "items.parquet"
    frame = pl.DataFrame({"item_id": ["01", "2"], "year": [1995, None], "genres": [["Drama", "War"], []]})
    frame.write_parquet(path)
    if packed:
        content, path = path.read_bytes(), tmp_path / "items.parquet.gz"
        path.write_bytes(gzip.compress(content))
    read = read_table(path, "auto", "items")
    assert read["item_id"].to_list() == ["01", "2"]
    assert read["year"].to_list() == [1995, None]
    assert read["genres"].to_list() == ["Drama|War", ""]


def test_recbole_headers_lose_their_type(tmp_path: Path) -> None:
    events, items = tmp_path / "ml.inter", tmp_path / "ml.item"
    events.write_text("user_id:token\titem_id:token\ttimestamp:float\n01\t0242\t8.81250949E8\n")
    items.write_text('item_id:token\tmovie_title:token_seq\tclass:token_seq\n0242\tKolya "x" (1996)\tComedy War\n')
    assert read_table(events, "auto", "events").rows(named=True) == [
        {"user_id": "01", "item_id": "0242", "timestamp": "8.81250949E8"}
    ]
    assert read_table(items, "auto", "items").rows(named=True) == [
        {"item_id": "0242", "movie_title": 'Kolya "x" (1996)', "class": "Comedy War"}
    ]
    events.write_text("user_id\titem_id:int\n1\t2\n")
    with pytest.raises(DataError, match=r"header 'user_id' .* 'user_id:token'"):
        read_table(events, "auto", "events")


def test_movielens_100k(tmp_path: Path) -> None:
    (tmp_path / "u.data").write_text("196\t242\t3\t881250949\n186\t302\t3\t891717742\n")
    flags = {1: "0", 5: "1", 8: "1"}
    genres = "|".join(flags.get(place, "0") for place in range(19))
    line = f"242|Caf\u00e9 Society (1995)|01-Jan-1995||http://example.org/?q=1|{genres}\n"
    (tmp_path / "u.item").write_bytes(line.encode("latin-1"))
    events = read_table(tmp_path / "u.data", "auto", "events")
    assert events.row(0, named=True) == {"user_id": "196", "item_id": "242", "rating": "3", "timestamp": "881250949"}
    assert read_table(tmp_path / "u.item", "auto", "items").row(0, named=True) == {
        "item_id": "242",
        "title": "Caf\u00e9 Society (1995)",
        "release_date": "01-Jan-1995",
        "genres": "Comedy|Drama",
    }


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8"])
def test_movielens_dat(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "ratings.dat").write_text("1::0385002::5::978300760\n")
    movie = '0385002::Caf\u00e9 "X": Y, The (1995)::Drama|War\n2::Z (2000)::(no genres listed)\n'
    (tmp_path / "movies.dat").write_bytes(movie.encode(encoding))
    assert read_table(tmp_path / "ratings.dat", "auto", "events").row(0) == ("1", "0385002", "5", "978300760")
    assert read_table(tmp_path / "movies.dat", "auto", "items").rows() == [
        ("0385002", 'Caf\u00e9 "X": Y, The (1995)', "Drama|War"),
        ("2", "Z (2000)", ""),
    ]


def test_movielens_csv(tmp_path: Path) -> None:
    path = tmp_path / "movies.csv"
    path.write_text('movieId,title,genres\n11,"American President, The (1995)",Comedy|Drama\n12,X,(no genres listed)\n')
    assert format_of(path) == "movielens"
    assert read_table(path, "auto", "items")["genres"].to_list() == ["Comedy|Drama", ""]
    path.write_text("id,title,genres\n11,X,(no genres listed)\n")
    assert format_of(path) == "csv"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("e.csv", b"", "is empty"),
        ("e.csv", "user_id,item_id\n1,2\n".encode("utf-16"), "iconv -f utf-16"),
        ("e.csv", b"user_id,item_id\n1,\x002\n", r"byte 18\), so it is damaged"),
        ("e.csv", b"PK\x03\x04 and so on", "a spreadsheet, not text. Save its table as CSV"),
        ("e.inter", b"PAR1 and so on", "Set data.format to parquet"),
        ("ratings.dat", b"", "is empty"),
        ("e.csv.gz", b"BZh91AY and so on", "packed with bzip2"),
        ("e.csv", b"user_id,item_id\n", "has no rows"),
        ("e.csv", b"user_id,item_id\n1,2,3\n4,5\n", "more fields"),
        ("e.csv", "user_id,item_id\n1,caf\u00e9\n".encode("latin-1"), "is not UTF-8 text"),
        (
            "e.csv.gz",
            gzip.compress(b"user_id,item_id\n" + b"1,2\n" * 5000, mtime=0)[:40],
            "Check that the file is complete",
        ),
        ("e.parquet", b"user_id,item_id\n1,2\n", "cannot be read as parquet"),
        ("ratings.dat", b"1::2::3::4::5\n", "cannot be read as movielens"),
    ],
)
def test_damaged_files_are_named_with_a_remedy(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=words) as caught:
        read_table(path, "auto", "events")
    assert str(path) in str(caught.value)


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"There is no file .*nothing\.csv, which data\.events names"):
        read_table(tmp_path / "nothing.csv", "auto", "events")
    with pytest.raises(DataError, match="is a folder"):
        read_table(tmp_path, "auto", "items")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.csv", "csv"),
        ("a.tsv.gz", "csv"),
        ("a.parquet", "parquet"),
        ("my.data.pq", "parquet"),
        ("x.inter", "recbole"),
        ("x.item", "recbole"),
        ("u.item", "movielens"),
        ("u.data", "movielens"),
        ("ratings.dat", "movielens"),
    ],
)
def test_format_by_name(name: str, expected: Format) -> None:
    assert format_of(Path(name)) == expected
