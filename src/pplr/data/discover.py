"""Finding the events and the items in a folder, by the names that data sets usually give them."""

from __future__ import annotations

from pathlib import Path

from pplr.data.notes import examples
from pplr.data.settings import DataSettings
from pplr.errors import DataError

_STEMS = (("interactions", "items"), ("events", "items"), ("ratings", "movies"), ("ratings", "items"))
_SUFFIXES = (".csv.gz", ".csv", ".tsv.gz", ".tsv", ".txt", ".parquet", ".pq", ".dat")


def discover(path: Path) -> DataSettings:
    """Return settings, with absolute paths, for the data in a folder.

    Looked for, in this order: `interactions`, `events` or `ratings` beside `items` or `movies` (CSV, TSV, Parquet,
    `.dat`; gzip too), MovieLens 100k's `u.data` and `u.item`, one pair of RecBole's `NAME.inter` and `NAME.item`.

    Raises:
        DataError: there is no such folder, or nothing in it is recognised, or more than one thing is.
    """
    if not path.exists():
        raise DataError(f"There is no folder {path}.")
    if not path.is_dir():
        raise DataError(f"{path} is a file: give the folder that holds the events and the items.")
    folder = path.resolve()
    pairs = _named_pairs(folder) or _movielens_pairs(folder) or _recbole_pairs(folder)
    if not pairs:
        present = sorted(entry.name for entry in folder.iterdir())
        raise DataError(
            f"No events and items are recognised in {path}, which holds: {examples(present, limit=10) or 'nothing'}. "
            "Name the files interactions.csv and items.csv (or .parquet, .gz, RecBole's .inter and .item, MovieLens' "
            "own), or name them in a configuration as data.events and data.items."
        )
    if len(pairs) > 1:
        found = [f"{events.name} + {items.name}" for events, items in pairs]
        raise DataError(
            f"{path} holds more than one data set: {examples(found, limit=5)}. Name the one to use in a configuration "
            "as data.events and data.items."
        )
    events, items = pairs[0]
    return DataSettings(events=events, items=items)


def _named_pairs(folder: Path) -> list[tuple[Path, Path]]:
    for event_stem, item_stem in _STEMS:
        events, items = _with_suffix(folder, event_stem), _with_suffix(folder, item_stem)
        if events and items:
            return [(one, other) for one in events for other in items]
    return []


def _with_suffix(folder: Path, stem: str) -> list[Path]:
    return [folder / f"{stem}{suffix}" for suffix in _SUFFIXES if (folder / f"{stem}{suffix}").is_file()]


def _movielens_pairs(folder: Path) -> list[tuple[Path, Path]]:
    events, items = folder / "u.data", folder / "u.item"
    return [(events, items)] if events.is_file() and items.is_file() else []


def _recbole_pairs(folder: Path) -> list[tuple[Path, Path]]:
    pairs = ((events, events.with_suffix(".item")) for events in sorted(folder.glob("*.inter")))
    return [(events, items) for events, items in pairs if items.is_file()]
