"""Event and item tables in one canonical schema, and everything that can be wrong with them, said all at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import polars as pl

from pplr.data.dataset import Part
from pplr.data.ids import lost_zeros, read_ids
from pplr.data.notes import Note, examples
from pplr.data.times import TimeUnit, read_positions, read_times
from pplr.wording import plural

_SPLIT_VALUES = {
    "train": Part.TRAIN,
    "training": Part.TRAIN,
    "valid": Part.VALIDATION,
    "validation": Part.VALIDATION,
    "val": Part.VALIDATION,
    "dev": Part.VALIDATION,
    "test": Part.TEST,
}


@dataclass(frozen=True)
class EventTable:
    """Events sorted by user, time, position, and file order.

    Attributes:
        frame: [events] user, item (String), tied (Boolean: only file order tells it from the user's event before), and
            where the file has them: time, position (Int64), value (Float64), part (Int8, `Part`), silo (String).
        time_unit: the unit of the column time.
    """

    frame: pl.DataFrame
    time_unit: TimeUnit = TimeUnit.UNKNOWN


@dataclass
class Findings:
    """What the checks of one load have found so far.

    Attributes:
        notes: what was done or seen.
        problems: sentences for which the data cannot be used.
    """

    notes: list[Note] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def event_table(frame: pl.DataFrame, columns: Mapping[str, str], file_name: str, findings: Findings) -> EventTable:
    """Return the events of a file in the canonical schema; what is wrong is added to `findings`.

    Args:
        frame: the file's rows.
        columns: our name -> the file's column; user and item at least.
        file_name: how messages call the file.
        findings: extended in place.
    """
    series: dict[str, pl.Series] = {}
    unit = TimeUnit.UNKNOWN
    for role in ("user", "item"):
        ids = read_ids(frame[columns[role]], file_name)
        series[role] = ids.values
        findings.notes.extend(ids.notes)
        findings.problems.extend(ids.problems)
    if "time" in columns:
        times = read_times(frame[columns["time"]], file_name)
        series["time"], unit = times.values, times.unit
        findings.problems.extend(times.problems)
    if "position" in columns:
        positions = read_positions(frame[columns["position"]], file_name)
        series["position"] = positions.values
        findings.problems.extend(positions.problems)
    if "value" in columns:
        series["value"] = _values(frame[columns["value"]], file_name, findings)
    if "split" in columns:
        series["part"] = _parts(frame[columns["split"]], file_name, findings)
    if "silo" in columns:
        series["silo"] = _silos(frame[columns["silo"]], series["user"], file_name, findings)
    table = pl.DataFrame([values.alias(name) for name, values in series.items()]).with_row_index("row")
    return EventTable(_sorted(table, file_name, findings).drop("row"), unit)


def item_table(frame: pl.DataFrame, columns: Mapping[str, str], file_name: str, findings: Findings) -> pl.DataFrame:
    """Return [items] id, title and every other column of the file as text ("" where missing), in the file's order."""
    ids = read_ids(frame[columns["id"]], file_name)
    findings.notes.extend(ids.notes)
    findings.problems.extend(ids.problems)
    present = ids.values.drop_nulls()
    repeated = present.filter(present.is_duplicated()).unique(maintain_order=True)
    if len(repeated):
        findings.problems.append(
            f"{len(repeated):,} item ids occur more than once in {file_name}: {examples(repeated.to_list())}. "
            "Keep one row per item."
        )
    texts = [ids.values.alias("id"), _text(frame[columns["title"]]).alias("title")]
    for name in frame.columns:
        if name in (columns["id"], columns["title"]):
            continue
        if frame.schema[name].is_nested() or frame.schema[name] == pl.Binary:
            kind = frame.schema[name]
            findings.notes.append(Note("attribute", 1, f"Left out column '{name}' of {file_name}: {kind} is not text."))
            continue
        texts.append(_text(frame[name]).alias(name if name not in ("id", "title") else f"{name}_"))
    return pl.DataFrame(texts)


def drop_untitled(items: pl.DataFrame, drop: bool, findings: Findings) -> pl.DataFrame:
    """Return the items that have a title; where `drop` is false, those that have none are a problem."""
    untitled = items.filter(pl.col("title") == "")["id"]
    if untitled.is_empty():
        return items
    text = f"{plural(len(untitled), 'item')} without a title: {examples(untitled.to_list())}."
    if drop:
        findings.notes.append(Note("missing-titles", len(untitled), f"{text} They were dropped with their events."))
    else:
        findings.problems.append(f'{text} Give them one, or set data.cleaning.missing_titles = "drop".')
    return items.filter(pl.col("title") != "")


def note_duplicate_titles(items: pl.DataFrame, findings: Findings) -> None:
    """Note how many items share their title with another; that is allowed, because items are told apart by id."""
    repeated = items.filter(pl.col("title").is_duplicated())["title"]
    if len(repeated):
        shown = examples(repeated.unique(maintain_order=True).to_list())
        text = f"{len(repeated):,} items share their title with another item: {shown}."
        findings.notes.append(Note("duplicate-titles", len(repeated), text))


def drop_unknown_items(
    events: EventTable, items: pl.DataFrame, untitled: pl.Series, drop: bool, findings: Findings
) -> EventTable:
    """Return the events whose item is in the table; where `drop` is false, events of unknown items are a problem.

    Args:
        events: all events.
        items: the items that stay.
        untitled: ids of items that were dropped for want of a title: their events go without further words.
        drop: whether events of unknown items are dropped.
        findings: extended in place.
    """
    known = pl.col("item").is_in(items["id"].implode())
    unknown = events.frame.filter(~known & ~pl.col("item").is_in(untitled.implode()))["item"].drop_nulls()
    if len(unknown):
        shown = examples(unknown.unique(maintain_order=True).to_list())
        text = (
            f"{plural(len(unknown), 'event')} of {plural(unknown.n_unique(), 'item')} that the items file does not have: {shown}."
            f"{lost_zeros(unknown, items['id'])}"
        )
        if drop:
            findings.notes.append(Note("unknown-items", len(unknown), f"{text} These events were dropped."))
        else:
            findings.problems.append(f'{text} Add the items, or set data.cleaning.unknown_items = "drop".')
    return _kept(events, events.frame.filter(known))


def drop_duplicates(events: EventTable, findings: Findings) -> EventTable:
    """Return the events without those equal in user, item, time and position to an earlier one.

    Without time and position nothing tells a duplicate from a repeated choice, and all events stay.
    """
    order = [name for name in ("time", "position") if name in events.frame.columns]
    if not order:
        return events
    kept = events.frame.unique(["user", "item", *order], keep="first", maintain_order=True)
    count = events.frame.height - kept.height
    if count == 0:
        return events
    text = f"Dropped {count:,} events equal in user, item and {' and '.join(order)} to an earlier one."
    findings.notes.append(Note("duplicate-events", count, text))
    return _kept(events, kept)


def drop_low_values(events: EventTable, minimum: float, findings: Findings) -> EventTable:
    """Return the events whose value is at least `minimum`."""
    if "value" not in events.frame.columns:
        findings.problems.append(
            f"data.cleaning.minimum_value is {minimum}, but the events have no column that is recognised as value: "
            "name it in data.columns.value, or leave minimum_value out."
        )
        return events
    kept = events.frame.filter(pl.col("value") >= minimum)
    count = events.frame.height - kept.height
    findings.notes.append(Note("minimum-value", count, f"Dropped {count:,} events with a value below {minimum:g}."))
    return _kept(events, kept)


def _kept(events: EventTable, kept: pl.DataFrame) -> EventTable:
    return EventTable(kept.with_columns(tied=_tied(kept)), events.time_unit)


def _sorted(table: pl.DataFrame, file_name: str, findings: Findings) -> pl.DataFrame:
    order = [name for name in ("time", "position") if name in table.columns]
    if len(order) == 2:
        _check_order(table, file_name, findings)
    table = table.sort("user", *order, "row")
    if order:
        moved = (pl.col("row") < pl.col("row").shift(1)) & (pl.col("user") == pl.col("user").shift(1))
        count = table.filter(moved)["user"].n_unique()
        if count:
            text = f"The events of {count:,} users stood out of order in {file_name}: sorted by {' and '.join(order)}."
            findings.notes.append(Note("sorted", count, text))
    else:
        text = f"{file_name} has neither time nor position: each user's events are taken in the order of the file."
        findings.notes.append(Note("file-order", table.height, text))
    return table.with_columns(tied=_tied(table))


def _tied(table: pl.DataFrame) -> pl.Series:
    order = [name for name in ("time", "position") if name in table.columns]
    if not order:
        return pl.repeat(False, table.height, dtype=pl.Boolean, eager=True)
    same = pl.all_horizontal((pl.col(name) == pl.col(name).shift(1)) for name in ("user", *order))
    return table.select(same.fill_null(False)).to_series()


def _check_order(table: pl.DataFrame, file_name: str, findings: Findings) -> None:
    ordered = table.sort("user", "position", "row")
    same_user = pl.col("user") == pl.col("user").shift(1)
    backwards = ordered.filter(
        same_user & (pl.col("time") < pl.col("time").shift(1)) & (pl.col("position") > pl.col("position").shift(1))
    )
    if len(backwards):
        first = backwards.row(0, named=True)
        findings.problems.append(
            f"Time runs backwards along the positions of {backwards['user'].n_unique():,} users in {file_name}, such "
            f"as user '{first['user']}' at position {first['position']}. Correct one of the two columns, or ignore "
            'one: data.columns.position = "" or data.columns.time = "".'
        )


def _values(column: pl.Series, file_name: str, findings: Findings) -> pl.Series:
    text = column.str.strip_chars() if column.dtype == pl.String else column
    values = text.cast(pl.Float64, strict=False)
    bad = column.filter(values.is_null() & text.is_not_null())
    if len(bad):
        findings.problems.append(
            f"{len(bad):,} values of column '{column.name}' in {file_name} are not numbers: {examples(bad.to_list())}. "
            'Repair them, or ignore the column: data.columns.value = "".'
        )
    return values


def _parts(column: pl.Series, file_name: str, findings: Findings) -> pl.Series:
    text = column.cast(pl.String).str.strip_chars().str.to_lowercase()
    codes = {name: int(part) for name, part in _SPLIT_VALUES.items()}
    parts = text.replace_strict(codes, default=None, return_dtype=pl.Int8)
    bad = column.filter(parts.is_null())
    if len(bad):
        shown = ["(empty)" if value is None else value for value in bad.unique(maintain_order=True).to_list()]
        findings.problems.append(
            f"{len(bad):,} values of the split column '{column.name}' in {file_name} are none of {', '.join(codes)}: "
            f'{examples(shown)}. Rename them, or ignore the column: data.columns.split = "".'
        )
    return parts


def _silos(column: pl.Series, users: pl.Series, file_name: str, findings: Findings) -> pl.Series:
    silos = column.cast(pl.String).str.strip_chars().fill_null("")
    empty = int((silos == "").sum())
    fix = 'or ignore the column: data.columns.silo = "".'
    if empty:
        findings.problems.append(
            f"{empty:,} events in {file_name} have no silo in column '{column.name}': fill it in, {fix}"
        )
    pairs = pl.DataFrame({"user": users, "silo": silos}).unique(maintain_order=True)
    both = pairs.filter(pl.col("user").is_duplicated() & pl.col("user").is_not_null())
    if len(both):
        first = both["user"][0]
        names = both.filter(pl.col("user") == first)["silo"].to_list()
        findings.problems.append(
            f"{both['user'].n_unique():,} users are in more than one silo in {file_name}, such as user '{first}' in "
            f"{examples(names)}. Silos know users apart: write the silo before the user id (for example "
            f"'{names[0]}/{first}'), {fix}"
        )
    return silos


def _text(column: pl.Series) -> pl.Series:
    return column.cast(pl.String).fill_null("")
