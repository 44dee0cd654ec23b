"""`check`: everything worth knowing about a data set before hours are spent on it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import ArrayLike

from pplr.data.advice import advice
from pplr.data.cleaning import training_core, unescape
from pplr.data.dataset import Dataset, Ints, Part
from pplr.data.load import Loaded, Tables, encode, read_tables
from pplr.data.report import CoreLevel, DataReport, OrderQuality, Quantiles, SplitQuality, TextQuality
from pplr.data.settings import DataSettings
from pplr.data.times import TimeUnit
from pplr.errors import DataError

_CORES_SHOWN = (2, 3, 5, 10, 20, 50, 100)
_LENIENT = {"missing_titles": "drop", "unknown_items": "drop"}
_LENIENT_STEPS = {"missing-titles": "missing_titles", "unknown-items": "unknown_items"}


def check(settings: DataSettings, base: Path) -> DataReport:
    """Return a report on the data that the settings describe, under the split that they name.

    Missing titles, unknown items and an impossible split are listed in `problems`, and the rest is reported
    without them; what makes the tables unreadable is raised.

    Args:
        settings: the section `[data]`.
        base: folder at which relative paths start.

    Raises:
        DataError: a file or a column is missing, or ids, times or other values cannot be read.
    """
    lenient = settings.model_copy(update={"cleaning": settings.cleaning.model_copy(update=_LENIENT)})
    try:
        tables = read_tables(lenient, base)
    except DataError:
        read_tables(settings, base)  # raises as well, and names what a run would stop at besides
        raise
    problems = [
        f'{note.text} A run stops here unless data.cleaning.{option} is "drop".'
        for note in tables.notes
        if (option := _LENIENT_STEPS.get(note.step)) and getattr(settings.cleaning, option) == "error"
    ]
    loaded: Loaded | None = None
    try:
        loaded = encode(tables, lenient)
    except DataError as error:
        problems.append(str(error))
    frame = tables.events.frame
    users = frame["user"].rle_id().to_numpy().astype(np.int64)
    items = frame.select(pl.col("item").rank("dense") - 1)["item"].to_numpy().astype(np.int64)
    user_events, item_events = np.bincount(users), np.bincount(items)
    unused = tables.items.height - len(item_events)
    report = DataReport(
        source=settings.demo or str(settings.events),
        users=len(user_events),
        items=tables.items.height,
        events=frame.height,
        items_without_events=unused,
        user_events=quantiles(user_events),
        item_events=quantiles(np.concatenate([item_events, np.zeros(unused, np.int64)])),
        cores=core_levels(users, items),
        text=_text_quality(tables, settings.cleaning.title_length),
        order=_order_quality(tables, users, items),
        split=None if loaded is None else split_quality(loaded, settings.split.kind),
        notes=tuple(note.text for note in (tables.notes if loaded is None else loaded.notes)),
        warnings=(),
        problems=tuple(problems),
    )
    return report.model_copy(update={"warnings": advice(report, has_split_column="part" in frame.columns)})


def quantiles(numbers: ArrayLike) -> Quantiles:
    """Return the quantiles of the numbers; all 0 where there are none."""
    values = np.asarray(numbers, dtype=np.float64)
    found = np.quantile(values, [0, 0.25, 0.5, 0.75, 0.95, 1]) if values.size else np.zeros(6)
    smallest, q25, median, q75, q95, largest = (float(value) for value in found)
    return Quantiles(minimum=smallest, q25=q25, median=median, q75=q75, q95=q95, maximum=largest)


def core_levels(users: Ints, items: Ints) -> tuple[CoreLevel, ...]:
    """Return the size of the k-core of all events for k = 2, 3, 5, 10, ... and the largest k that leaves anything.

    Args:
        users: [events] user codes.
        items: [events] item codes.
    """
    levels: dict[int, CoreLevel] = {}
    user_count, item_count = int(users.max(initial=-1)) + 1, int(items.max(initial=-1)) + 1
    k, shown = 2, list(_CORES_SHOWN)
    while True:
        everything = np.ones(len(users), dtype=bool)
        kept_users, kept_items = training_core(
            users, items, everything, k, user_count=user_count, item_count=item_count
        )
        stay = kept_users[users] & kept_items[items]
        users, items = users[stay], items[stay]
        if not len(users):
            return tuple(levels.values())
        user_events, item_events = np.bincount(users), np.bincount(items)
        # the k-core is also the core of every level up to the fewest events that somebody in it has
        largest = int(min(user_events[user_events > 0].min(), item_events[item_events > 0].min()))
        size = {"users": int((user_events > 0).sum()), "items": int((item_events > 0).sum()), "events": len(users)}
        for level in [level for level in shown if k <= level <= largest]:
            levels[level] = CoreLevel(k=level, **size)
        # kept until a larger one takes its place as the last
        levels = {level: core for level, core in levels.items() if level in shown}
        levels[largest] = CoreLevel(k=largest, **size)
        k = largest + 1


def split_quality(loaded: Loaded, kind: str) -> SplitQuality:
    """Return sizes of the split and what may leak through it.

    Args:
        loaded: the data set, with the notes of its split.
        kind: name of the split.
    """
    dataset = loaded.dataset
    sizes = np.bincount(dataset.parts, minlength=3)
    users = np.repeat(np.arange(len(dataset.items), dtype=np.int64), dataset.items.lengths)
    latest_part = np.maximum.accumulate(users * len(Part) + dataset.parts) - users * len(Part)
    seen = np.zeros(len(dataset.catalogue), dtype=bool)
    seen[dataset.training().values] = True
    unseen = {
        part: float(np.mean(~seen[dataset.items.values[dataset.parts == part]]))
        for part in (Part.VALIDATION, Part.TEST)
    }
    return SplitQuality(
        kind=kind,
        training=int(sizes[Part.TRAIN]),
        validation=int(sizes[Part.VALIDATION]),
        test=int(sizes[Part.TEST]),
        validation_users=len(dataset.queries(Part.VALIDATION)),
        test_users=len(dataset.queries(Part.TEST)),
        training_lengths=quantiles(dataset.training().lengths),
        ties_at_cut=sum(note.count for note in loaded.notes if note.step == "ties-at-cut"),
        late_training=int(((dataset.parts == Part.TRAIN) & (latest_part > Part.TRAIN)).sum()),
        training_after_test=_training_after_test(dataset),
        validation_unseen=unseen[Part.VALIDATION],
        test_unseen=unseen[Part.TEST],
        test_repeated=_test_repeated(dataset, users),
    )


def _training_after_test(dataset: Dataset) -> float | None:
    if dataset.times is None:
        return None
    middle = np.median(dataset.times[dataset.parts == Part.TEST])
    return float(np.mean(dataset.times[dataset.parts == Part.TRAIN] > middle))


def _test_repeated(dataset: Dataset, users: Ints) -> float:
    pairs = users * len(dataset.catalogue) + dataset.items.values
    test = dataset.parts == Part.TEST
    return float(np.mean(np.isin(pairs[test], pairs[~test])))


def _text_quality(tables: Tables, limit: int) -> TextQuality:
    written = tables.written["title"]
    texts = written.filter(written.str.strip_chars() != "")
    plain = texts.str.strip_chars().map_elements(unescape, return_dtype=pl.String)
    capitals = (plain.str.to_lowercase() != plain) & (plain.str.to_uppercase() == plain)
    return TextQuality(
        missing=len(written) - len(texts),
        duplicates=int(tables.items["title"].is_duplicated().sum()),
        html_entities=int((plain != texts.str.strip_chars()).sum()),
        all_capitals=int(capitals.sum()),
        longer_than_limit=int((plain.str.replace_all(r"\s+", " ").str.len_chars() > limit).sum()),
        characters=quantiles(texts.str.len_chars().to_numpy()),
    )


def _order_quality(tables: Tables, users: Ints, items: Ints) -> OrderQuality:
    frame, unit = tables.events.frame, tables.events.time_unit
    first = last = None
    if "time" in frame.columns and unit is not TimeUnit.UNKNOWN:
        ends = frame.select(pl.col("time").min().alias("first"), pl.col("time").max().alias("last")).row(0)
        first, last = (_date(value / unit.value) for value in ends)
    order: dict[tuple[bool, bool], Literal["time", "position", "time and position", "file order"]] = {
        (True, False): "time",
        (False, True): "position",
        (True, True): "time and position",
        (False, False): "file order",
    }
    pairs = users * (int(items.max(initial=0)) + 1) + items
    return OrderQuality(
        ordered_by=order["time" in frame.columns, "position" in frame.columns],
        first=first,
        last=last,
        ties=int(frame["tied"].sum()),
        users_with_ties=frame.filter("tied")["user"].n_unique(),
        repeats=len(pairs) - len(np.unique(pairs)),
    )


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")
