"""A client that is there from round 4 on only: what it starts from, what the others notice, and that a resume is the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

import tiny
from pplr.client_names import check_client_names
from pplr.config import parse_config
from pplr.errors import ConfigError
from pplr.federation.audit_log import AuditLog
from pplr.federation.engines import InProcessEngine
from pplr.federation.messages import Absence
from pplr.federation.strategies import FedAvg, Local, Pplr

LATE, FIRST = "client-3", 4


class Late:
    """The engine of this process, in which one client is not there before a round, or fails until then."""

    def __init__(self, engine: InProcessEngine, first: int, *, fails: bool = False, done: int = 0):
        self._engine, self._first, self._fails, self._round = engine, first, fails, done + 1

    def __getattr__(self, name):
        return getattr(self._engine, name)

    @property
    def clients(self):
        away = self._round < self._first and not self._fails
        return tuple(replace(one, here=not (away and one.name == LATE)) for one in self._engine.clients)

    def train(self, tasks, observer, seconds=None):
        for task in tasks:
            if task.client == LATE and task.round < self._first:
                assert self._fails, "who is not there is not asked"
                yield Absence(LATE, task.round, "its disk is full")
            else:
                yield from self._engine.train([task], observer, seconds)

    def evaluate(self, tasks, observer, seconds=None):
        self._round = tasks[0].round + 1
        return self._engine.evaluate(tasks, observer, seconds)


def federation(folder=None, *, first=FIRST, fails=False, rounds=6, strategy="pplr", done=0, **options):
    options = {"rounds": rounds, "patience": rounds, "quorum": 0.5} | options
    coordinator, members = tiny.federation(folder, strategy=strategy, **options)
    coordinator._engine = Late(coordinator._engine, first, fails=fails, done=done)
    return coordinator, {member.info.name: member for member in members}


def rows_before_mixing(coordinator):
    """The trained rows of each round, as they were before they were mixed, and after."""
    kept = []
    mix = coordinator._aggregate

    def watched(*arguments):
        before = coordinator.bank.rows.clone()
        found = mix(*arguments)
        kept.append((before, coordinator.bank.rows.clone(), found))
        return found

    coordinator._aggregate = watched
    return kept


@pytest.mark.parametrize("fails", [False, True])
def test_a_late_client_starts_from_the_mix_of_the_others_by_similarity_and_disturbs_nobody(fails):
    coordinator, _ = federation(fails=fails, strategy=Pplr(items="mean"))
    kept = rows_before_mixing(coordinator)
    history = coordinator.run().history
    late = coordinator.bank.index(LATE)
    others = [i for i in range(4) if i != late]
    never, _ = federation(first=99, fails=fails, strategy=Pplr(items="mean"))
    without = rows_before_mixing(never)
    never.run()

    for before, after, _ in kept[: FIRST - 1]:  # until it comes it holds the mean of the others
        torch.testing.assert_close(after[late], before[others].mean(0))
    before, after, mixing = kept[FIRST - 1]
    similarity = mixing.details["similarity"][late, others]
    expected = np.average(before[others].numpy(), axis=0, weights=similarity)
    torch.testing.assert_close(after[late], torch.from_numpy(expected).float(), rtol=1e-5, atol=1e-6)
    assert torch.equal(after[others], without[FIRST - 1][1][others]), "for the others it is not there yet"
    assert (mixing.matrix[others, late] == 0).all()
    assert (kept[FIRST][2].matrix[others, late] > 0).all(), "from the next round on it is one of them"
    assert kept[FIRST][2].matrix[late, late] > 0

    trained = [record.clients[LATE].trained for record in history]
    assert trained == [False] * (FIRST - 1) + [True] * 3
    assert [LATE in record.awaited for record in history] == [not fails and r < FIRST for r in range(1, 7)]
    assert [LATE in record.absent for record in history] == [fails and r < FIRST for r in range(1, 7)]


def test_it_is_caught_up():
    """After its first round it is better than alone after one, and about as good as one that was there all the time."""
    late, _ = federation(rounds=FIRST)
    always, _ = federation(rounds=FIRST, first=1)
    alone, _ = federation(rounds=1, strategy="local", first=1)
    losses = [c.run().history[-1].clients[LATE].validation_loss for c in (late, always, alone)]
    assert losses[0] < losses[2] and losses[0] - losses[1] < 0.5 * (losses[2] - losses[1]), losses


@pytest.mark.parametrize("at", [2, 4, 5])
def test_a_resume_treats_it_the_same(tmp_path, at):
    class Killed(Exception):
        pass

    def kill(event):
        if event.name == "checkpoint" and event.round == at:
            raise Killed

    whole, _ = federation()
    whole.run()
    broken, _ = federation(tmp_path / "checkpoints", observer=kill, audit=AuditLog(tmp_path))
    with pytest.raises(Killed):
        broken.run()
    again, _ = federation(tmp_path / "checkpoints", done=at, audit=AuditLog(tmp_path))
    again.resume()
    again.run()
    assert torch.equal(again.bank.rows, whole.bank.rows)


def test_only_who_was_away_is_a_newcomer_and_not_who_was_not_drawn():
    coordinator, _ = federation(first=1, participation=2, rounds=4)
    for record in coordinator.run().history:
        assert record.awaited == []
        for place, client in enumerate(record.clients.values()):
            if not client.trained:
                speed = record.details["learning_speed"][place]
                assert record.mixing[place][place] == pytest.approx(1 / (1 + speed)), (
                    "half of the speed from each of two"
                )


@pytest.mark.parametrize("strategy", [FedAvg(), Local(), Pplr(alpha=0.0), Pplr(self_weight=1.0)], ids=repr)
def test_strategies_without_rows_of_ones_own_to_catch_up_with_are_as_they_were(strategy):
    coordinator, _ = federation(strategy=strategy)
    history = coordinator.run().history
    for record in history:
        matrix = np.array(record.mixing)
        if isinstance(strategy, FedAvg):
            assert (matrix == matrix[0]).all(), "all get one average, also who is not there"
        else:
            np.testing.assert_array_equal(matrix, np.eye(4))


def joined(folder=None, *, first=FIRST, rounds=6, **options):
    options = {"rounds": rounds, "patience": rounds, "quorum": 0.5, "joins": {LATE: first}} | options
    coordinator, members = tiny.federation(folder, **options)
    return coordinator, {member.info.name: member for member in members}


def test_a_client_that_joins_by_the_settings_is_one_that_was_not_there_before(tmp_path):
    (by_settings, members), (by_engine, others) = joined(tmp_path / "one"), federation(tmp_path / "two")
    by_settings.run(), by_engine.run()
    assert torch.equal(by_settings.bank.rows, by_engine.bank.rows)
    for name, member in members.items():
        assert torch.equal(member.best_row(), others[name].best_row())
    awaited = [record.awaited for record in by_settings.progress.history]
    assert awaited == [[LATE]] * (FIRST - 1) + [[]] * 3
    again, _ = joined(tmp_path / "one")
    again.resume()
    assert again.finished


def test_a_run_is_not_over_before_all_have_joined_and_scores_over_fewer_clients_do_not_count_after():
    found = []

    def nothing_is_ever_better(event):
        if event.name == "round_started" and event.round == 2:
            found[0].progress.best_score, found[0].progress.best_round = 9.0, 1

    coordinator, members = joined(first=5, rounds=9, patience=1, observer=nothing_is_ever_better)
    found.append(coordinator)
    coordinator.run()
    history = coordinator.progress.history
    assert len(history) > 5, "patience of one round, and still there when the last one joins"
    assert coordinator.progress.best_round >= 5, "the score over three clients is no bound for that over four"
    assert coordinator.progress.best_score == max(record.score for record in history[4:])
    assert members[LATE].best is not None


def test_joins_of_nobody_of_all_and_after_the_end_are_refused():
    names = [f"client-{n}" for n in range(4)]
    with pytest.raises(ConfigError, match=r"names the client 'client-9'.*Clients: client-0, client-1"):
        check_client_names(parse_config({"federation": {"joins": {"client-9": 2}}}, Path()), names)
    with pytest.raises(ConfigError, match="leaves nobody for round 1"):
        check_client_names(parse_config({"federation": {"joins": dict.fromkeys(names, 2)}}, Path()), names)
    check_client_names(parse_config({"federation": {"joins": dict.fromkeys(names[1:], 2)}}, Path()), names)
    with pytest.raises(ValidationError, match="join in round 4, and there are 3"):
        tiny.federation(None, joins={LATE: 4}, rounds=3)
