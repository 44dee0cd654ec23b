"""What a client remembers between rounds: its best row, its private part, and on whom it measures itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import tiny
from pplr.data.dataset import Part
from pplr.federation import Client
from pplr.federation.messages import EvaluateTask, TrainTask

RESTLESS = tiny.TRAINING.model_copy(update={"learning_rate": 0.3, "schedule": "constant"})
"""Steps so large that a later round is often worse than an earlier one."""


def watched(select_by, **settings):
    """Return a finished federation's clients, and by client the score and the whole row of every round."""
    seen: dict[str, list[tuple[float, torch.Tensor]]] = {}

    def observe(event):
        if event.name == "client_validated":
            member = next(m for m in members if m.info.name == event.client)
            row = torch.cat([coordinator.bank.row(event.client), member.private])
            score = event.data["ndcg@10"] if select_by == "ndcg@10" else -event.data["loss"]
            seen.setdefault(event.client, []).append((score, row.clone()))
            assert event.data["improved"] == (score > max((s for s, _ in seen[event.client][:-1]), default=-np.inf))

    measuring = replace(tiny.MEASURING, select_by=select_by)
    coordinator, members = tiny.federation(
        None, rounds=6, patience=6, training=RESTLESS, measuring=measuring, observer=observe, **settings
    )
    coordinator.run()
    return members, seen


@pytest.mark.parametrize("select_by", ["ndcg@10", "loss"])
def test_the_best_row_of_all_rounds_is_kept_not_the_newest(select_by):
    members, seen = watched(select_by)
    places = []
    for member in members:
        scores = [score for score, _ in seen[member.info.name]]
        places.append(int(np.argmax(scores)))  # the first of equals
        assert member.best_score == pytest.approx(max(scores))
        assert torch.equal(member.best_row(), seen[member.info.name][places[-1]][1])
    assert min(places) < 5, "no round was worse than one before: nothing was tested"


def test_the_test_measures_the_row_that_was_kept():
    members, seen = watched("ndcg@10")
    for member in members:
        best = max(seen[member.info.name], key=lambda pair: pair[0])[1]
        shared = len(best) - len(member.private)
        kept = member.evaluate(EvaluateTask(member.info.name, 0, Part.TEST, None, rank=True))
        member.private = best[shared:]
        given = member.evaluate(EvaluateTask(member.info.name, 0, Part.TEST, best[:shared], rank=True))
        assert (kept.loss, kept.metrics) == (given.loss, given.metrics)
        assert torch.equal(member.best_row(), best), "a test must not choose rows"


def client(name="client-1", users=range(20), **measuring):
    data = tiny.dataset()
    owner = tiny.client_data(data, name, users)
    return Client(owner, tiny.sequence_backbone(data), tiny.TRAINING, replace(tiny.MEASURING, **measuring), seed=5)


@pytest.mark.parametrize("strategy", ["pplr", "ditto"])
def test_what_was_trained_in_a_round_that_did_not_count_is_forgotten(strategy):
    coordinator, (member, *_) = tiny.federation(None, strategy=strategy, rounds=2)
    coordinator.run()
    before = {name: tensor.clone() for name, tensor in member.state().items()}
    row = coordinator.bank.row(member.info.name)

    def differing():
        return {name for name, tensor in member.state().items() if not torch.equal(tensor, before[name])}

    expected = member.train(TrainTask(member.info.name, 3, 0.5, row)).row
    trained = differing()
    assert {"private", "moments.shared.exp_avg"} <= trained
    for task_round, counted in ((2, False), (3, True)):  # it did not train in round 2 before; what counts stays
        member.evaluate(EvaluateTask(member.info.name, task_round, Part.VALIDATION, row, True, trained=counted))
        assert trained <= differing()
    member.train(TrainTask(member.info.name, 4, 0.5, row))
    member.evaluate(EvaluateTask(member.info.name, 4, Part.VALIDATION, row, True, trained=False))
    after_three = {name: member.state()[name].clone() for name in trained}
    member.restore(before)
    assert torch.equal(member.train(TrainTask(member.info.name, 3, 0.5, row)).row, expected)
    assert all(torch.equal(member.state()[name], tensor) for name, tensor in after_three.items())


def test_an_update_that_is_refused_leaves_nothing_with_its_client_in_one_process_either():
    coordinator, members = tiny.federation(None, rounds=1, norm_bound=3.0)
    liar, others = members[0], members[1:]
    before, honest = liar.private.clone(), liar.train

    def lying(task, report=None):
        update = honest(task, report)
        assert liar.moments
        return replace(update, row=task.row + 1000 * (update.row - task.row))

    liar.train = lying
    (record,) = coordinator.run().history
    assert record.quarantined == [liar.info.name]
    assert torch.equal(liar.private, before)
    assert liar.moments == {}
    assert all(other.moments for other in others)


def test_a_personal_row_keeps_moments_of_its_own():
    coordinator, members = tiny.federation(None, strategy="ditto", rounds=3)
    coordinator.run()
    once, others = tiny.federation(None, strategy="ditto", rounds=1)
    once.run()
    for member, other in zip(members, others, strict=True):
        for row in ("shared", "personal"):
            assert int(member.moments[row]["step"]) == 3 * int(other.moments[row]["step"]) > 0
        assert not torch.equal(member.moments["shared"]["exp_avg"], member.moments["personal"]["exp_avg"])


def test_a_sample_of_users_is_drawn_once_by_seed_client_and_part():
    whole, sampled = client(), client(max_users=6)
    for part in (Part.VALIDATION, Part.TEST):
        users = sampled.queries(part).users
        assert len(users) == 6
        assert set(users) < set(whole.queries(part).users)
        assert users.tolist() == client(max_users=6).queries(part).users.tolist()
        assert users.tolist() != client("client-2", max_users=6).queries(part).users.tolist()
    assert sampled.queries(Part.TEST).users.tolist() != sampled.queries(Part.VALIDATION).users.tolist()
    row = sampled._backbone.layout.initial_row(5)[: sampled._backbone.layout.shared]
    assert sampled.evaluate(EvaluateTask("client-1", 1, Part.VALIDATION, row, rank=False)).users == 6
    assert client(max_users=10_000).queries(Part.TEST).users.tolist() == whole.queries(Part.TEST).users.tolist()


def test_validation_may_ask_fewer_users_than_the_test():
    fewer = client(max_users=12, validation_users=6)
    assert [len(fewer.queries(part)) for part in (Part.VALIDATION, Part.TEST)] == [6, 12]
    assert fewer.queries(Part.VALIDATION).users.tolist() == client(max_users=6).queries(Part.VALIDATION).users.tolist()
    assert fewer.queries(Part.TEST).users.tolist() == client(max_users=12).queries(Part.TEST).users.tolist()
    assert len(client(max_users=4, validation_users=6).queries(Part.VALIDATION)) == 4
    whole = client(validation_users=6)
    assert len(whole.queries(Part.TEST)) == len(client().queries(Part.TEST))


def test_fewer_examples_are_a_sample_of_all():
    limited = client()
    everything = {tuple(window) for window in limited._examples.windows}
    limited.limit_examples(3)
    assert limited.info.size == 3
    assert {tuple(window) for window in limited._examples.windows} < everything
    three = limited._examples
    limited.limit_examples(10)
    assert limited.info.size == 10
    limited.limit_examples(10**9)
    assert {tuple(window) for window in limited._examples.windows} == everything
    limited.limit_examples(3)
    assert {tuple(w) for w in limited._examples.windows} == {tuple(w) for w in three.windows}, "whatever was before"


def test_without_validation_users_the_newest_row_is_kept():
    data = tiny.dataset()
    owner = tiny.client_data(data, "client-1", range(10))
    nobody = owner.validation.select(np.zeros(0, np.int64))
    member = Client(
        replace(owner, validation=nobody), tiny.sequence_backbone(data), tiny.TRAINING, tiny.MEASURING, seed=5
    )
    shared = member._backbone.layout.initial_row(5)[: member._backbone.layout.shared]
    for number in (1, 2):
        report = member.evaluate(EvaluateTask("client-1", number, Part.VALIDATION, shared + number, rank=True))
        assert not report.improved
        assert torch.equal(member.best_row(), member.row(shared + number))
