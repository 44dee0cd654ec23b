"""Tasks and answers survive the journey bit for bit; figures of single users do not travel; nonsense is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pplr.data.dataset import Part
from pplr.errors import RunError
from pplr.evaluation import UserMetrics
from pplr.federation.messages import EvaluateTask, Report, TrainTask, Update
from pplr.silos import codec
from pplr.silos.parcel import Parcel, failure, from_bytes

FLOATS = st.floats(allow_nan=False, allow_infinity=False)
ROW = torch.tensor([1.5, -2.0, 1e-30])


def through(parcel: Parcel) -> Parcel:
    return from_bytes(parcel.to_bytes())


@given(progress=st.floats(0, 1), number=st.integers(1, 10**6), examples=st.integers(0, 10**9))
def test_a_task_arrives(progress, number, examples):
    asked = codec.Asked("this run", examples)
    task, found = codec.train_task(through(codec.train_parcel(TrainTask("a", number, progress, ROW), asked)))
    assert (task.client, task.round, task.progress, found) == ("a", number, progress, asked)
    assert torch.equal(task.row, ROW)


@given(loss=FLOATS | st.just(math.nan), counts=st.tuples(st.integers(0, 10**9), st.integers(0, 10**9)))
def test_an_update_arrives(loss, counts):
    update = codec.update_of(through(codec.update_parcel(Update("a", 3, ROW, loss, *counts, {"total": 0.1}))))
    assert (update.targets, update.tokens, update.seconds) == (*counts, {"total": 0.1})
    assert update.loss == loss or math.isnan(loss)
    assert torch.equal(update.row, ROW)


@pytest.mark.parametrize(("part", "row"), [(Part.VALIDATION, ROW), (Part.TEST, None)])
def test_a_measuring_task_arrives(part, row):
    asked = codec.Asked("this run", 5)
    task, found = codec.evaluate_task(through(codec.evaluate_parcel(EvaluateTask("a", 3, part, row, True), asked)))
    assert found == asked
    assert (task.client, task.round, task.part, task.rank) == ("a", 3, part, True)
    assert task.row is None if row is None else torch.equal(task.row, row)


def test_figures_of_single_users_stay():
    users = UserMetrics(np.array([77_001, 77_002]), {"ndcg@10": np.array([0.125, 0.875])})
    parcel = codec.report_parcel(Report("a", Part.TEST, 1.25, 2, {"ndcg@10": 0.5}, False, users, 0.1))
    assert b"7700" not in parcel.to_bytes() and b"0.875" not in parcel.to_bytes()
    report = codec.report_of(through(parcel))
    assert (report.client, report.part, report.loss, report.users) == ("a", Part.TEST, 1.25, 2)
    assert (report.metrics, report.per_user) == ({"ndcg@10": 0.5}, None)


def test_half_a_character_is_no_text():
    """JSON can say it, and no file can hold it."""
    head = b'{"kind": "failure", "fields": {"reason": "\\ud800"}, "row": false}'
    with pytest.raises(RunError, match="cannot be read"):
        from_bytes(len(head).to_bytes(4, "little") + head)


GOOD = {"client": "a", "round": 1, "loss": 1.0, "targets": 5, "tokens": 7, "seconds": {}}


@pytest.mark.parametrize(
    "changes",
    [
        {"client": ""}, {"client": 3}, {"round": -1}, {"round": 1.5}, {"round": True}, {"loss": "1"}, {"targets": -5},
        {"tokens": 2**70}, {"seconds": {"total": None}}, {"seconds": []}, {"more": 1}, {"client": "x" * 101},
    ],
)  # fmt: skip
def test_an_update_with_other_fields_is_refused(changes):
    with pytest.raises(RunError):
        codec.update_of(Parcel("update", GOOD | changes, codec.numbers(ROW)))


def test_an_update_without_its_row_and_other_kinds_are_refused():
    for wrong in (Parcel("update", GOOD), Parcel("report", GOOD, codec.numbers(ROW))):
        with pytest.raises(RunError):
            codec.update_of(wrong)
    with pytest.raises(RunError, match="the disk is full"):
        codec.update_of(failure("the disk is full"))
