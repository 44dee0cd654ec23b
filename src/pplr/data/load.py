"""From files to a data set: read, check, clean, split, take the training k-core, number users and items."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pplr.data.cleaning import clean_texts, training_core
from pplr.data.columns import EVENT_COLUMNS, ITEM_COLUMNS, choose_columns
from pplr.data.dataset import Catalogue, Dataset, Ints, Part, Ragged
from pplr.data.notes import Note, log_notes
from pplr.data.readers import read_table
from pplr.data.settings import DataSettings, resolve_paths
from pplr.data.splits import Parts, split_events
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
from pplr.data.times import to_seconds
from pplr.errors import DataError

_DEMO_FILES = {"movietweetings": ("core5_interactions.csv.gz", "core5_items.csv.gz")}


@dataclass(frozen=True)
class Tables:
    """Checked and cleaned tables, before the split.

    Attributes:
        events: the events that are used.
        items: [items] id, title and attributes, cleaned; the catalogue before any k-core.
        written: the same columns as the file has them, with the items that were dropped.
        notes: what was done.
    """

    events: EventTable
    items: pl.DataFrame
    written: pl.DataFrame
    notes: tuple[Note, ...]


@dataclass(frozen=True)
class Loaded:
    """A data set and the log of how it came about.

    Attributes:
        dataset: what the rest of the program works on.
        notes: what was done, in order.
    """

    dataset: Dataset
    notes: tuple[Note, ...]


def load_dataset(settings: DataSettings, base: Path) -> Dataset:
    """Return the data set that the settings describe; what was done goes to the logger `pplr.data`.

    Args:
        settings: the section `[data]`.
        base: folder at which relative paths start: that of the configuration file.

    Raises:
        DataError: one sentence per thing that is wrong with the files.
    """
    return load(settings, base).dataset


def load(settings: DataSettings, base: Path) -> Loaded:
    """Return what `load_dataset` returns, together with the notes on what was done (which are logged as well)."""
    tables = read_tables(settings, base)
    loaded = encode(tables, settings)
    log_notes(loaded.notes)
    return loaded


def load_catalogue(settings: DataSettings, base: Path) -> Catalogue:
    """Return the catalogue of a data set; the events are not even opened, unless a k-core makes it depend on them.

    Raises:
        DataError: one sentence per thing that is wrong with the files.
    """
    if settings.cleaning.k_core > 1:
        return load_dataset(settings, base).catalogue
    with _source_files(settings, base) as (_, item_path):
        rows, name = read_table(item_path, settings.format, "items"), item_path.name
    columns = choose_columns(rows.columns, ITEM_COLUMNS, settings.columns, name)
    findings = Findings(problems=list(columns.problems))
    _stop_at_problems(findings)
    items, _ = clean_texts(item_table(rows, columns.columns, name, findings), settings.cleaning)
    titled = drop_untitled(items, settings.cleaning.missing_titles == "drop", findings)
    _stop_at_problems(findings)
    return _catalogue(titled)


def read_tables(settings: DataSettings, base: Path) -> Tables:
    """Return the checked and cleaned tables.

    Raises:
        DataError: one sentence per thing that is wrong with the files.
    """
    with _source_files(settings, base) as (event_path, item_path):
        event_rows = read_table(event_path, settings.format, "events")
        item_rows = read_table(item_path, settings.format, "items")
        event_name, item_name = event_path.name, item_path.name
    event_columns = choose_columns(event_rows.columns, EVENT_COLUMNS, settings.columns, event_name)
    item_columns = choose_columns(item_rows.columns, ITEM_COLUMNS, settings.columns, item_name)
    findings = Findings(problems=[*event_columns.problems, *item_columns.problems])
    _stop_at_problems(findings)
    cleaning = settings.cleaning
    events = event_table(event_rows, event_columns.columns, event_name, findings)
    written = item_table(item_rows, item_columns.columns, item_name, findings)
    items, notes = clean_texts(written, cleaning)
    findings.notes.extend(notes)
    titled = drop_untitled(items, cleaning.missing_titles == "drop", findings)
    untitled = items.filter(pl.col("title") == "")["id"]
    note_duplicate_titles(titled, findings)
    events = drop_unknown_items(events, titled, untitled, cleaning.unknown_items == "drop", findings)
    if cleaning.duplicate_events == "drop":
        events = drop_duplicates(events, findings)
    if cleaning.minimum_value is not None:
        events = drop_low_values(events, cleaning.minimum_value, findings)
    _stop_at_problems(findings)
    if events.frame.is_empty():
        raise DataError("No event is left after cleaning: look at data.cleaning, and at the ids of both files.")
    return Tables(events, titled, written, tuple(findings.notes))


def encode(tables: Tables, settings: DataSettings) -> Loaded:
    """Return the data set of the tables: split, reduced to the training k-core, users and items numbered.

    Users are numbered in the order of their ids, items in the order of the items file; so neither numbering depends
    on which events are test events.

    Raises:
        DataError: the split or the k-core leaves too little.
    """
    frame = tables.events.frame
    user_ids = frame["user"].unique(maintain_order=True)
    users = frame["user"].rle_id().to_numpy().astype(np.int64)
    numbered = tables.items.select(pl.col("id").alias("item")).with_row_index("code")
    items = frame.join(numbered, on="item", how="left", maintain_order="left")["code"].to_numpy().astype(np.int64)
    offsets = _offsets(users, len(user_ids))
    times = frame["time"].to_numpy() if "time" in frame.columns else None
    given = frame["part"].to_numpy() if "part" in frame.columns else None
    parts, notes = split_events(settings.split, offsets, times, given, frame["tied"].to_numpy())
    kept_users, kept_items = np.ones(len(user_ids), bool), np.ones(tables.items.height, bool)
    core = settings.cleaning.k_core
    if core > 1:
        kept_users, kept_items = training_core(
            users, items, parts == Part.TRAIN, core, user_count=len(user_ids), item_count=tables.items.height
        )
        notes += _core_notes(core, kept_users, kept_items)
    stay = kept_users[users] & kept_items[items]
    _check_parts(parts[stay], core)
    user_codes, item_codes = np.cumsum(kept_users) - 1, np.cumsum(kept_items) - 1
    seconds = None
    if times is not None:
        seconds = to_seconds(frame["time"], tables.events.time_unit).to_numpy()[stay]
    dataset = Dataset(
        catalogue=_catalogue(tables.items.filter(pl.Series(kept_items))),
        user_ids=tuple(user_ids.filter(pl.Series(kept_users)).to_list()),
        items=Ragged(item_codes[items[stay]], _offsets(user_codes[users[stay]], int(kept_users.sum()))),
        parts=parts[stay],
        times=seconds,
        silos=_silos(frame, kept_users),
    )
    return Loaded(dataset, (*tables.notes, *notes))


@contextmanager
def _source_files(settings: DataSettings, base: Path) -> Iterator[tuple[Path, Path]]:
    """Give the paths of the events and of the items, those of the demo unpacked where the package is an archive."""
    with ExitStack() as stack:
        if settings.demo is not None:
            folder = files("pplr.data") / "demo" / settings.demo
            events, items = (stack.enter_context(as_file(folder / name)) for name in _DEMO_FILES[settings.demo])
        else:
            resolved = resolve_paths(settings, base)
            if resolved.events is None or resolved.items is None:
                raise DataError("data.events and data.items must both name a file, or data.demo the demo data.")
            events, items = resolved.events, resolved.items
        yield events, items


def _stop_at_problems(findings: Findings) -> None:
    if findings.problems:
        raise DataError("\n".join(findings.problems))


def _offsets(sorted_codes: Ints, count: int) -> Ints:
    lengths = np.bincount(sorted_codes, minlength=count)
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])


def _core_notes(core: int, users: NDArray[np.bool_], items: NDArray[np.bool_]) -> list[Note]:
    lost_users, lost_items = int((~users).sum()), int((~items).sum())
    text = (
        f"Took the {core}-core of the training events: dropped {lost_users:,} of {len(users):,} users and "
        f"{lost_items:,} of {len(items):,} items, with all their events."
    )
    return [Note("k-core", lost_users + lost_items, text)]


def _check_parts(parts: Parts, core: int) -> None:
    if len(np.unique(parts)) < len(Part):
        raise DataError(
            f"The {core}-core of the training events leaves {len(parts):,} events, and not all of training, validation "
            "and test among them: lower data.cleaning.k_core."
        )


def _catalogue(items: pl.DataFrame) -> Catalogue:
    attributes = {name: tuple(items[name].to_list()) for name in items.columns if name not in ("id", "title")}
    return Catalogue(tuple(items["id"].to_list()), tuple(items["title"].to_list()), attributes)


def _silos(frame: pl.DataFrame, kept_users: NDArray[np.bool_]) -> tuple[str, ...] | None:
    if "silo" not in frame.columns:
        return None
    silos = frame.unique("user", keep="first", maintain_order=True)["silo"]
    return tuple(silos.filter(pl.Series(kept_users)).to_list())
