"""What `pplr data check` reports: numbers, warnings and problems, ready for JSON."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Quantiles(_Frozen):
    """How a number is distributed: its smallest value, three quartiles, 95th percentile and largest value."""

    minimum: float
    q25: float
    median: float
    q75: float
    q95: float
    maximum: float


class CoreLevel(_Frozen):
    """What is left when users and items with fewer than k events are dropped again and again, over all events."""

    k: int
    users: int
    items: int
    events: int


class TextQuality(_Frozen):
    """State of the titles as the file has them, before cleaning.

    Attributes:
        missing: items without a title.
        duplicates: items that share their title with another.
        html_entities: titles with HTML entities, such as '&amp;'.
        all_capitals: titles with letters, none of them in lower case where the script knows lower case.
        longer_than_limit: titles longer than data.cleaning.title_length after cleaning.
        characters: length of the titles.
    """

    missing: int
    duplicates: int
    html_entities: int
    all_capitals: int
    longer_than_limit: int
    characters: Quantiles


class OrderQuality(_Frozen):
    """What orders a user's events.

    Attributes:
        ordered_by: columns that order the events.
        first: first time, as a date, where the unit of time is known.
        last: last time, likewise.
        ties: events that only the file's order tells from the user's event before.
        users_with_ties: users who have such events.
        repeats: events of an item that the user had before.
    """

    ordered_by: Literal["time", "position", "time and position", "file order"]
    first: str | None
    last: str | None
    ties: int
    users_with_ties: int
    repeats: int


class SplitQuality(_Frozen):
    """The split of the settings, and what may leak through it.

    Attributes:
        kind: name of the split.
        training: training events.
        validation: validation events.
        test: test events.
        validation_users: users asked in validation, who have a history.
        test_users: users asked in the test, who have a history.
        training_lengths: training events of each user.
        ties_at_cut: users whose last three events tie, so that the file's order decides what is asked (leave-one-out).
        late_training: training events that follow a validation or test event of the same user.
        training_after_test: share of all users' training events later than the median test event; None without time.
        validation_unseen: share of validation targets that never occur in training.
        test_unseen: share of test targets that never occur in training.
        test_repeated: share of test targets already in the user's history, which is masked: they cannot be hit.
    """

    kind: str
    training: int
    validation: int
    test: int
    validation_users: int
    test_users: int
    training_lengths: Quantiles
    ties_at_cut: int
    late_training: int
    training_after_test: float | None
    validation_unseen: float
    test_unseen: float
    test_repeated: float


class DataReport(_Frozen):
    """All that `check` found; `model_dump_json()` gives it to programs.

    Attributes:
        source: the events file, or the name of the demo data.
        users: users with events.
        items: items in the items file that are used.
        events: events that are used.
        items_without_events: items that nobody chose.
        user_events: events of each user.
        item_events: events of each item, those without any included.
        cores: the k-core for some k, up to the largest k that leaves anything.
        text: the titles.
        order: the order of events.
        split: the split, None where it is impossible; `problems` says why.
        notes: what was done to the data, as sentences.
        warnings: what may spoil a result, as sentences with the remedy.
        problems: what stops a run, as sentences with the remedy; the data is usable where this is empty.
    """

    source: str
    users: int
    items: int
    events: int
    items_without_events: int
    user_events: Quantiles
    item_events: Quantiles
    cores: tuple[CoreLevel, ...]
    text: TextQuality
    order: OrderQuality
    split: SplitQuality | None
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    problems: tuple[str, ...]
