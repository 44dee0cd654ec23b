import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pplr.data.dataset import Part
from pplr.data.splits import GlobalTime, LeaveOneOut, cut_by_time, leave_one_out, split_events
from pplr.errors import DataError


def offsets_of(lengths: list[int]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


@settings(deadline=None)
@given(st.lists(st.integers(0, 9), max_size=20))
def test_leave_one_out_by_brute_force(lengths: list[int]) -> None:
    parts = leave_one_out(offsets_of(lengths))
    expected = [row for n in lengths for row in ([0] * n if n < 3 else [0] * (n - 2) + [1, 2])]
    assert parts.tolist() == expected


@settings(deadline=None)
@given(
    st.lists(st.integers(-50, 50), max_size=200),
    st.tuples(*[st.floats(0.1, 10) for _ in range(3)]),
)
def test_global_time_never_lets_equal_times_straddle_a_cut(times: list[int], ratio: tuple[float, float, float]) -> None:
    moments = np.array(times, dtype=np.int64)
    parts = cut_by_time(moments, ratio)
    assert len(parts) == len(times)
    assert set(parts.tolist()) <= {0, 1, 2}
    for earlier in (Part.TRAIN, Part.VALIDATION):
        before, after = moments[parts <= earlier], moments[parts > earlier]
        if len(before) and len(after):
            assert before.max() < after.min()
    shares = np.cumsum(ratio) / np.sum(ratio)
    for part, share in zip((Part.TRAIN, Part.VALIDATION), shares[:2], strict=True):
        assert (parts <= part).sum() <= np.round(share * len(times))


@settings(deadline=None)
@given(st.permutations(range(100)))
def test_without_ties_the_cut_is_eight_to_one_to_one_in_any_order(times: list[int]) -> None:
    moments = np.array(times, dtype=np.int64)
    parts = cut_by_time(moments, (8, 1, 1))
    assert np.bincount(parts).tolist() == [80, 10, 10]
    assert (parts[moments < 80] == Part.TRAIN).all()
    assert (parts[moments >= 90] == Part.TEST).all()


NO_TIES = np.zeros(4, dtype=bool)


def test_ties_at_the_cut_are_counted_once_per_user() -> None:
    offsets = offsets_of([4, 3, 2])
    tied = np.array([False, True, False, False, False, True, True, False, True])
    parts, notes = split_events(LeaveOneOut(), offsets, None, None, tied)
    assert parts.tolist() == [0, 0, 1, 2, 0, 1, 2, 0, 0]
    assert [(note.step, note.count) for note in notes] == [("split", 9), ("ties-at-cut", 1)]


def test_the_given_column_goes_before_time_unless_the_ratio_is_asked_for() -> None:
    offsets, times = offsets_of([4]), np.arange(4)
    given = np.array([0, 0, 1, 2], dtype=np.int8)
    assert split_events(GlobalTime(), offsets, times, given, NO_TIES)[0].tolist() == [0, 0, 1, 2]
    cut = GlobalTime(cut="ratio", ratio=(1, 2, 1))
    assert split_events(cut, offsets, times, given, NO_TIES)[0].tolist() == [0, 1, 1, 2]
    assert split_events(GlobalTime(ratio=(1, 2, 1)), offsets, times, None, NO_TIES)[0].tolist() == [0, 1, 1, 2]


@pytest.mark.parametrize(
    ("settings", "lengths", "times", "words"),
    [
        (LeaveOneOut(), [2, 2], None, "No user has three events"),
        (GlobalTime(), [4], None, "needs the time of each event or a split column"),
        (GlobalTime(cut="column"), [4], np.arange(4), "have no split column"),
        (GlobalTime(), [4], np.zeros(4, np.int64), "no training and no validation events"),
    ],
)
def test_impossible_splits_say_what_to_do(
    settings: LeaveOneOut | GlobalTime, lengths: list[int], times: np.ndarray | None, words: str
) -> None:
    with pytest.raises(DataError, match=words):
        split_events(settings, offsets_of(lengths), times, None, NO_TIES)
