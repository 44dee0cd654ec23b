"""What comes in during a round: rows of any length are digested before anybody has looked at them."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

from pplr.federation.intake import Intake, row_digest
from pplr.federation.messages import TrainTask, Update
from pplr.federation.settings import FederationSettings
from pplr.models.bank import AdapterBank, gram


@pytest.mark.parametrize(("length", "stride"), [(0, 1), (1, 0), (1, 1), (1, 5), (3, 0), (3, 2), (1_000, 1)])
def test_the_digest_of_a_row_is_that_of_its_bytes(length, stride):
    row = torch.linspace(-1, 1, 1_000).as_strided((length,), (stride,))
    assert row_digest(row) == hashlib.sha256(np.array(row.tolist(), dtype="<f4").tobytes()).hexdigest()


@pytest.mark.parametrize("length", [0, 1, 5, 7])
def test_a_row_of_another_length_is_refused_and_harms_nobody(length):
    bank, events = AdapterBank.of_equal_rows(["a", "b"], torch.zeros(6)), []
    intake = Intake([TrainTask("a", 1, 1.0, bank.row("a"))], bank, None, FederationSettings(), events.append)
    row = torch.ones(1).expand(length)
    intake.take(Update("a", 1, row, 1.0, 5, 5, {}))
    intake.close()
    assert intake.quarantined == {"a"} and f"its row is {length} float32" in intake.absent["a"]
    assert not bank.rows.any() and [event.name for event in events] == ["quarantined"]


@pytest.mark.parametrize("size", [1.0, 1e11, 3e38])
def test_the_row_of_one_who_learnt_nothing_stays_as_it_was(size):
    """No bound on losses or lengths is asked about it, so nothing of it may be taken."""
    bank = AdapterBank.of_equal_rows(["a", "b"], torch.zeros(6))
    intake = Intake([TrainTask("a", 1, 1.0, bank.row("a"))], bank, None, FederationSettings(), lambda event: None)
    intake.take(Update("a", 1, torch.full((6,), size), 0.0, 0, 5, {}))
    intake.close()
    assert not bank.rows.any()


def test_a_row_that_is_long_beyond_measure_is_refused():
    bank = AdapterBank.of_equal_rows(["a", "b"], torch.zeros(6))
    intake = Intake([TrainTask(name, 1, 1.0, bank.row(name)) for name in "ab"], bank, None, FederationSettings(), print)
    intake.take(Update("a", 1, torch.full((6,), 1e25), 1.0, 5, 5, {}))
    intake.take(Update("b", 1, torch.full((6,), 1e11), 1.0, 5, 5, {}))
    assert "long beyond measure" in intake.absent["a"] and not bank.row("a").any()
    assert set(intake.updates) == {"b"} and torch.isfinite(gram(bank.rows)).all()


def taken_in(lengths, losses, **settings):
    """An intake of updates of these lengths along the first axis, from ones, and its bank."""
    names = [f"c{i}" for i in range(len(lengths))]
    bank = AdapterBank.of_equal_rows(names, torch.ones(6))
    received = bank.rows.clone()
    tasks = [TrainTask(name, 1, 1.0, bank.row(name).clone()) for name in names]
    intake = Intake(tasks, bank, received, FederationSettings(**settings), lambda event: None)
    for name, length, loss in zip(names, lengths, losses, strict=True):
        row = torch.ones(6)
        row[0] += length
        intake.take(Update(name, 1, row, loss, 5, 5, {}))
    intake.close()
    return intake, bank


def test_too_long_an_update_is_shortened_and_counts():
    intake, bank = taken_in([1.0, 1.0, 1.0, 50.0], [1.0] * 4, norm_clip=2.0)
    assert intake.shortened == {"c3": pytest.approx(0.04)}
    assert bank.rows[:, 0].tolist() == pytest.approx([2, 2, 2, 3])
    assert set(intake.updates) == {"c0", "c1", "c2", "c3"} and not intake.quarantined
    assert torch.equal(bank.rows[:, 1:], torch.ones(4, 5))


def test_an_implausible_loss_takes_its_row_back():
    intake, bank = taken_in([1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 9.0, 0.6], loss_bound=2.0)
    assert intake.quarantined == {"c2"} and "its loss is 9" in intake.absent["c2"]
    assert bank.rows[:, 0].tolist() == [2, 2, 1, 2]


def test_who_is_refused_is_in_no_median_of_lengths():
    intake, bank = taken_in([1.0, 1.0, 40.0, 50.0, 60.0], [1.0, 1.0, 1.0, 90.0, 90.0], loss_bound=2.0, norm_clip=3.0)
    assert intake.quarantined == {"c3", "c4"}
    assert intake.shortened == {"c2": pytest.approx(3 / 40)}
    assert bank.rows[:, 0].tolist() == pytest.approx([2, 2, 4, 1, 1])
