"""Splits: which events are for training, which for validation, which for the test. Nothing here looks at items."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from pplr.data.dataset import Ints, Part
from pplr.data.notes import Note
from pplr.errors import DataError

Parts = NDArray[np.int8]
_PART_NAMES = {Part.TRAIN: "training", Part.VALIDATION: "validation", Part.TEST: "test"}


class LeaveOneOut(BaseModel):
    """Each user's last event is for the test, the one before for validation, the rest for training."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["leave-one-out"] = Field(default="leave-one-out", description="The name of this split.")


class GlobalTime(BaseModel):
    """Two moments in time cut all users' events into training, validation and test (the paper's split)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["global-time"] = Field(default="global-time", description="The name of this split.")
    cut: Literal["auto", "column", "ratio"] = Field(
        default="auto",
        description="Take the split column, or cut by time in the given ratio; auto takes the column if there is one.",
    )
    ratio: tuple[
        Annotated[float, Field(gt=0, allow_inf_nan=False)],
        Annotated[float, Field(gt=0, allow_inf_nan=False)],
        Annotated[float, Field(gt=0, allow_inf_nan=False)],
    ] = Field(
        default=(8.0, 1.0, 1.0), description="Shares of training, validation and test events; each above 0, any scale."
    )


SplitSettings = Annotated[LeaveOneOut | GlobalTime, Field(discriminator="kind")]


def leave_one_out(offsets: Ints) -> Parts:
    """Return the part of each event: of every user the last is test, the one before validation, the rest training.

    Users with fewer than three events are all training: nothing would be left to learn their taste from.

    Args:
        offsets: [users + 1] where each user's events start; events are sorted by user, then time.

    Returns:
        [events] values of `Part`.
    """
    parts = np.full(int(offsets[-1]), Part.TRAIN, dtype=np.int8)
    ends = offsets[1:][np.diff(offsets) >= 3]
    parts[ends - 1] = Part.TEST
    parts[ends - 2] = Part.VALIDATION
    return parts


def cut_by_time(times: Ints, ratio: Sequence[float]) -> Parts:
    """Return the part of each event when all events are cut at two moments; equal times never straddle a cut.

    Each cut is at the time of the first event beyond the share; all events of that time belong to the later part, so
    that a part may be smaller than its share, and training never knows a time at which something is asked.

    Args:
        times: [events] time of each event, in any order and unit.
        ratio: three positive shares of training, validation and test, in any scale.

    Returns:
        [events] values of `Part`; a part is empty where too many events share one time.
    """
    shares = np.cumsum(np.asarray(ratio, dtype=np.float64)) / np.sum(ratio)
    ordered = np.sort(times)
    ranks = np.minimum(np.round(shares[:2] * len(times)).astype(np.int64), max(len(times) - 1, 0))
    cuts = ordered[ranks] if len(times) else ordered
    return np.searchsorted(cuts, times, side="right").astype(np.int8)


def split_events(
    settings: LeaveOneOut | GlobalTime,
    offsets: Ints,
    times: Ints | None,
    given: Parts | None,
    tied: NDArray[np.bool_],
) -> tuple[Parts, list[Note]]:
    """Return the part of each event, and notes on sizes and on ties that the file's order had to break.

    Args:
        settings: which split.
        offsets: [users + 1] where each user's events start; events are sorted by user, then time, then file order.
        times: [events] time of each event, or None.
        given: [events] the split column, or None.
        tied: [events] whether nothing but file order tells an event from the one before it of the same user.

    Raises:
        DataError: the data lacks what the split needs, or a part would be empty.
    """
    if isinstance(settings, LeaveOneOut):
        parts = leave_one_out(offsets)
        notes = _tie_notes(offsets, tied)
        hint = "No user has three events: give more events, or use the split 'global-time'."
    else:
        parts, notes = _global_time(settings, times, given), []
        hint = "Give events of all parts, or another data.split.ratio; many events at one time cannot be cut apart."
    sizes = np.bincount(parts, minlength=3)
    empty = [name for part, name in _PART_NAMES.items() if sizes[part] == 0]
    if empty:
        raise DataError(f"The split '{settings.kind}' leaves no {' and no '.join(empty)} events. {hint}")
    text = f"Split '{settings.kind}': {sizes[0]:,} training, {sizes[1]:,} validation, {sizes[2]:,} test events."
    return parts, [Note("split", int(sizes.sum()), text), *notes]


def _global_time(settings: GlobalTime, times: Ints | None, given: Parts | None) -> Parts:
    if settings.cut == "column" and given is None:
        raise DataError(
            "data.split.cut is 'column', but the events have no split column. Name it in data.columns.split, or set "
            "data.split.cut to 'ratio'."
        )
    if given is not None and settings.cut != "ratio":
        return given
    if times is None:
        raise DataError(
            "The split 'global-time' needs the time of each event or a split column, and the events have neither. Name "
            "one in data.columns.time or data.columns.split, or set data.split.kind to 'leave-one-out'."
        )
    return cut_by_time(times, settings.ratio)


def _tie_notes(offsets: Ints, tied: NDArray[np.bool_]) -> list[Note]:
    ends = offsets[1:][np.diff(offsets) >= 3]
    count = int((tied[ends - 1] | tied[ends - 2]).sum())
    if count == 0:
        return []
    text = (
        f"{count:,} of {len(ends):,} users have ties in time at the cut of 'leave-one-out': the order in the file "
        "decides what is asked, so events of one moment help to predict each other."
    )
    return [Note("ties-at-cut", count, text)]
