"""The round loop with an engine whose answers are written down: what must follow from them is known exactly."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny
from pplr.errors import RunError
from pplr.federation import Coordinator, FederationSettings
from pplr.federation.messages import Absence, ClientInfo, Report, Update
from pplr.federation.strategies import STRATEGIES, Pplr
from pplr.federation.strategies.base import Mixing
from pplr.models.layout import Layout, ParameterSpec, zeros
from pplr.models.ranks import RankLimits, limit_rank_

WIDTH = 3


class Scripted:
    """Client c adds `steps[c]` to its row; validation scores come from a table."""

    def __init__(self, names, *, sizes=None, steps=None, scores=(), order=None, targets=None, users=None):
        self.clients = tuple(ClientInfo(name, (sizes or {}).get(name, 10)) for name in sorted(names))
        self.steps = steps or {name: float(i + 1) for i, name in enumerate(sorted(names))}
        self.scores, self.order = list(scores), order
        self.targets, self.users = targets or {}, users or {}
        self.asked, self.validated = [], []

    def train(self, tasks, observer, seconds=None) -> Iterator[Update]:
        self.asked.append([task.client for task in tasks])
        for task in self.order(tasks) if self.order else tasks:
            row = task.row + self.steps[task.client]
            loss = 1.0 + self.steps[task.client] / 10
            yield Update(task.client, task.round, row, loss, self.targets.get(task.client, 5), 7, {"total": 0.0})

    def evaluate(self, tasks, observer, seconds=None) -> list[Report]:
        self.validated.append({task.client: task.row.clone() for task in tasks})
        score = self.scores[tasks[0].round - 1] if self.scores else float(tasks[0].round)
        return [
            Report(t.client, t.part, 1.0, self.users.get(t.client, 4), {"ndcg@10": score}, True, None, 0.0)
            for t in tasks
        ]

    def state(self):
        return {}

    def restore(self, state):
        pass


def coordinator(engine, strategy="local", **changes):
    chosen = FederationSettings(**({"rounds": 5, "patience": 5} | changes))
    return Coordinator(
        engine, STRATEGIES[strategy](), chosen, torch.zeros(WIDTH), seed=3, select_by="ndcg@10",
        observer=lambda event: None,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("scores", "patience", "ended", "best"),
    [
        ([1, 2, 3, 4, 5], 2, 5, 5),
        ([5, 4, 3, 2, 1], 2, 3, 1),
        ([1, 3, 3, 3, 9], 2, 4, 2),
        ([1, 0, 2, 1, 0], 2, 5, 3),
        ([1, 0, 0, 0, 0], 1, 2, 1),
        ([np.nan, 1, 0, 0, 0], 3, 5, 2),
    ],
)
def test_patience_counts_rounds_without_a_better_score(scores, patience, ended, best):
    tested = coordinator(Scripted("ab", scores=scores), patience=patience)
    progress = tested.run()
    assert len(progress.history) == ended
    assert progress.best_round == best
    assert tested.finished


class Absentminded(Scripted):
    """Scores by round and client; a client without one in a round does not answer its validation."""

    def __init__(self, table):
        super().__init__(sorted(set().union(*table)))
        self.table = table

    def evaluate(self, tasks, observer, seconds=None):
        scores = self.table[tasks[0].round - 1]
        return [
            Report(t.client, t.part, 1.0, 4, {"ndcg@10": scores[t.client]}, True, None, 0.0)
            for t in tasks
            if t.client in scores
        ]


RISING = [{"easy": 0.30 + n / 100, "hard": 0.10 + n / 100} for n in range(6)]


@pytest.mark.parametrize(
    "missing", [[], [(2, "hard")], [(2, "easy")], [(1, "hard")], [(2, "hard"), (4, "hard")], [(6, "hard")]]
)
def test_a_missed_validation_neither_ends_a_run_that_improves_nor_is_the_best_for_it(missing):
    table = [{name: v for name, v in scores.items() if (n, name) not in missing} for n, scores in enumerate(RISING, 1)]
    tested = coordinator(Absentminded(table), rounds=6, patience=2)
    progress = tested.run()
    assert (len(progress.history), progress.best_round) == (6, 6)


def test_clients_that_miss_validations_in_turn_do_not_keep_a_run_alive():
    falling = [{"a": 0.9, "b": 0.5}, {"b": 0.49}, {"a": 0.89}, {"b": 0.48}, {"a": 0.88}, {"b": 0.47}]
    tested = coordinator(Absentminded(falling), rounds=6, patience=3)
    progress = tested.run()
    assert (len(progress.history), progress.best_round, progress.best_score) == (4, 1, pytest.approx(0.7))


def test_the_score_is_the_mean_over_users():
    class Uneven(Scripted):
        def evaluate(self, tasks, observer, seconds=None):
            values = {"a": (0.2, 30), "b": (0.8, 10), "c": (0.9, 0)}
            return [Report(t.client, t.part, 1.0, values[t.client][1], {"ndcg@10": values[t.client][0]}) for t in tasks]

    assert coordinator(Uneven("abc"), rounds=1).run().history[0].score == pytest.approx(0.35)


def test_a_round_of_averaging_by_hand():
    engine = Scripted("abc", sizes={"a": 1, "b": 2, "c": 7}, steps={"a": 1.0, "b": 2.0, "c": 3.0})
    tested = coordinator(engine, "fedavg", rounds=2)
    tested.run()
    mean = 0.1 * 1 + 0.2 * 2 + 0.7 * 3
    for number, rows in enumerate(engine.validated, start=1):
        for row in rows.values():
            torch.testing.assert_close(row, torch.full((WIDTH,), number * mean))


@pytest.mark.parametrize("strategy", ["pplr", "fedavg", "local"])
@settings(max_examples=20)
@given(data=st.data())
def test_the_order_in_which_updates_arrive_changes_no_bit(strategy, data):
    names = "abcdef"
    order = data.draw(st.permutations(names))

    def rearranged(tasks):
        return sorted(tasks, key=lambda task: order.index(task.client))

    changes = {"rounds": 3, "participation": data.draw(st.sampled_from([1.0, 4]))}
    straight, mixed = (coordinator(Scripted(names, order=o), strategy, **changes) for o in (None, rearranged))
    straight.run(), mixed.run()
    assert torch.equal(straight.bank.rows, mixed.bank.rows)
    assert [r.mixing for r in straight.progress.history] == [r.mixing for r in mixed.progress.history]


@pytest.mark.parametrize(("participation", "count"), [(0.5, 3), (2, 2), (0.01, 1), (1.0, 6)])
def test_participants_are_drawn_anew_and_the_others_keep_their_rows(participation, count):
    engine = Scripted("abcdef")
    tested = coordinator(engine, "local", rounds=40, patience=40, participation=participation)
    tested.run()
    assert {len(names) for names in engine.asked} == {count}
    assert all(names == sorted(set(names)) for names in engine.asked)
    times = {name: sum(name in names for names in engine.asked) for name in "abcdef"}
    assert all(0 < n <= 40 for n in times.values())
    for name, n in times.items():
        torch.testing.assert_close(tested.bank.row(name), torch.full((WIDTH,), n * engine.steps[name]))
    again = Scripted("abcdef")
    coordinator(again, "local", rounds=40, patience=40, participation=participation).run()
    assert again.asked == engine.asked, "the draw is the seed's"


def test_clients_are_told_how_far_the_run_is():
    told = []

    class Listening(Scripted):
        def train(self, tasks, observer, seconds=None):
            told.append({task.progress for task in tasks})
            return super().train(tasks, observer, seconds)

    coordinator(Listening("ab"), rounds=4).run()
    assert told == [{0.0}, {0.25}, {0.5}, {0.75}]


@pytest.mark.parametrize(("similarity", "expected"), [("updates", 0.0), ("parameters", 1.0)])
def test_similarity_is_of_what_the_strategy_asks_for(similarity, expected):
    """Large equal rows that move in opposite directions: the rows are alike, what the round changed is not."""
    engine = Scripted("ab", steps={"a": 1.0, "b": -1.0})
    strategy, chosen = STRATEGIES["pplr"](similarity=similarity), FederationSettings(rounds=2, patience=2)
    start = torch.full((WIDTH,), 100.0)
    tested = Coordinator(engine, strategy, chosen, start, seed=3, select_by="ndcg@10", observer=lambda event: None)
    for record in tested.run().history:
        assert record.details["similarity"][0][1] == pytest.approx(expected, abs=1e-3)


def test_everybody_is_validated_in_every_round():
    engine = Scripted("abcd")
    tested = coordinator(engine, "fedavg", rounds=3, participation=1)
    history = tested.run().history
    assert [sorted(rows) for rows in engine.validated] == [list("abcd")] * 3
    trained = [[name for name, client in record.clients.items() if client.trained] for record in history]
    assert trained == engine.asked


def test_a_client_that_learnt_nothing_has_no_say():
    engine = Scripted("ab", targets={"b": 0}, steps={"a": 1.0, "b": 100.0})
    tested = coordinator(engine, "fedavg", rounds=1)
    tested.run()
    torch.testing.assert_close(tested.bank.row("a"), torch.ones(WIDTH))


def test_bytes_are_those_of_the_rows_that_a_network_would_carry():
    record = coordinator(Scripted("abcd"), "fedavg", rounds=1, participation=3).run().history[0]
    assert (record.bytes_up, record.bytes_down) == (3 * 4 * WIDTH, (3 + 4) * 4 * WIDTH)
    record = coordinator(Scripted("abcd"), "local", rounds=1).run().history[0]
    assert (record.bytes_up, record.bytes_down) == (0, 0)


def test_rows_are_taken_into_the_bank_as_they_arrive():
    """While later clients train, no row of an earlier one is kept outside of the bank."""
    import gc
    import weakref

    alive = []

    class Watched(Scripted):
        def train(self, tasks, observer, seconds=None):
            for update in super().train(tasks, observer, seconds):
                gc.collect()
                alive.append(sum(reference() is not None for reference in references))
                references.append(weakref.ref(update.row))
                yield update
                del update

    references: list = []
    coordinator(Watched("abcdef"), "fedavg", rounds=1).run()
    assert max(alive) <= 1


def test_the_engine_of_this_process_gives_updates_one_at_a_time():
    tested, _ = tiny.federation(None, rounds=1)
    updates = tested._engine.train([], lambda event: None)
    assert iter(updates) is updates


class Troubled(Scripted):
    """Gives what `answers` says for a client in a round, instead of its update."""

    def __init__(self, names, answers, **more):
        super().__init__(names, **more)
        self.answers = answers

    def train(self, tasks, observer, seconds=None):
        self.seconds = seconds
        for update in super().train(tasks, observer, seconds):
            yield from self.answers.get((update.client, update.round), lambda given: [given])(update)


def absent(update):
    return [Absence(update.client, update.round, "its node reports: gone")]


def watched(engine, strategy="fedavg", **changes):
    events = []
    chosen = FederationSettings(**({"rounds": 3, "patience": 5} | changes))
    tested = Coordinator(
        engine, STRATEGIES[strategy](), chosen, torch.zeros(WIDTH), seed=3, select_by="ndcg@10", observer=events.append
    )
    return tested, events


@pytest.mark.parametrize(
    ("answer", "event", "words"),
    [
        (absent, "absent", "gone"),
        (lambda given: [], "absent", "did not answer"),
        (lambda given: [replace(given, round=given.round - 1)], "quarantined", "round 1"),
        (lambda given: [replace(given, row=given.row * math.nan)], "quarantined", "finite"),
        (lambda given: [replace(given, loss=-5.0)], "quarantined", "loss"),
        (lambda given: [replace(given, row=given.row[:2])], "quarantined", "2 float32"),
    ],
    ids=["failed", "silent", "late", "nan", "loss", "shape"],
)
def test_the_round_goes_on_without_an_unusable_update(answer, event, words):
    names, sizes = "abcd", {"a": 1, "b": 2, "c": 7, "d": 3}
    tested, events = watched(Troubled(names, {("b", 2): answer}, sizes=sizes), rounds=2)
    history = tested.run().history
    assert words in history[1].absent["b"]
    assert not history[1].clients["b"].trained and history[1].clients["b"].users == 4, "it is still validated"
    assert [(e.name, e.client) for e in events if e.name in {"absent", "quarantined"}] == [(event, "b")]
    # as if b had not been drawn in round 2: the others' mean, to which b does not contribute
    first = (1 * 1 + 2 * 2 + 7 * 3 + 3 * 4) / 13
    second = first + (1 * 1 + 7 * 3 + 3 * 4) / 11
    torch.testing.assert_close(tested.bank.row("a"), torch.full((WIDTH,), second))


def test_answers_that_nobody_asked_for_change_nothing():
    def twice(given):
        return [given, replace(given, row=given.row + 100), replace(given, client="z")]

    straight, _ = watched(Scripted("abc"))
    disturbed, events = watched(Troubled("abc", {("b", n): twice for n in (1, 2, 3)}))
    straight.run(), disturbed.run()
    assert torch.equal(straight.bank.rows, disturbed.bank.rows)
    assert sum(e.name == "quarantined" for e in events) == 6


@pytest.mark.parametrize("strategy", ["fedavg", "pplr"])
def test_a_scaled_update_is_taken_back(strategy):
    names = "abcde"
    steps = {name: 1.0 + 0.1 * i for i, name in enumerate(names)}
    scale = {("c", 2): lambda given: [replace(given, row=given.row * 1000)]}
    tested, _ = watched(Troubled(names, scale, steps=steps), strategy, norm_bound=10.0)
    without, _ = watched(Troubled(names, {("c", 2): absent}, steps=steps), strategy)
    unguarded, _ = watched(Troubled(names, scale, steps=steps), strategy)
    history = tested.run().history
    without.run(), unguarded.run()
    assert "times as long as the median" in history[1].absent["c"]
    assert torch.equal(tested.bank.rows, without.bank.rows)
    assert unguarded.bank.rows.abs().max() > 50


@pytest.mark.parametrize(("gone", "quorum", "ends"), [("ab", 0.5, True), ("abc", 0.5, False), ("a", 1.0, False)])
def test_a_round_needs_its_quorum(gone, quorum, ends):
    tested, _ = watched(Troubled("abcd", {(name, 2): absent for name in gone}), quorum=quorum)
    if ends:
        assert len(tested.run().history) == 3
        return
    with pytest.raises(RunError, match=r"Round 2 .*federation\.quorum.*a: its node reports"):
        tested.run()
    assert len(tested.progress.history) == 1


def test_the_deadline_is_the_engines():
    engine = Troubled("ab", {})
    watched(engine, deadline_seconds=12.5)[0].run()
    assert engine.seconds == 12.5


def test_a_matrix_that_is_not_finite_ends_the_run_before_any_row_is_mixed():
    class Wild(STRATEGIES["fedavg"]):
        def mixing(self, cohort):
            return Mixing(np.full((len(cohort.sizes), len(cohort.sizes)), np.nan))

    tested = coordinator(Scripted("ab"), "fedavg", rounds=1)
    tested._strategy = Wild()
    with pytest.raises(RunError, match="matrix has numbers that are not finite"):
        tested.run()
    assert torch.isfinite(tested.bank.rows).all()


def test_who_was_not_drawn_is_told_that_it_has_not_trained():
    engine, told = Scripted("abcd"), []
    evaluate = engine.evaluate
    engine.evaluate = lambda tasks, *more: (
        told.append({task.client for task in tasks if task.trained}) or evaluate(tasks, *more)
    )
    coordinator(engine, "fedavg", rounds=3, participation=2).run()
    assert told == [set(asked) for asked in engine.asked]


@pytest.mark.parametrize("items", ["sum", "mean"])
def test_components_of_a_rank_are_averaged_over_those_who_have_them_whatever_becomes_of_items(items):
    """Client a has one component, and its zeros in the second one must not count."""
    layout = Layout(
        [
            ParameterSpec("residual", (2, 2), zeros, table=True),
            ParameterSpec("q.lora_A", (2, 3), zeros),
            ParameterSpec("q.lora_B", (3, 2), zeros),
        ]
    )

    class Ranked(Scripted):
        def train(self, tasks, observer, seconds=None):
            for update in super().train(tasks, observer, seconds):
                if update.client == "a":
                    limit_rank_(layout, update.row, 1)
                yield update

    row, strategy = torch.zeros(layout.size), Pplr(items=items, similarity="none", speed=False)
    tested = Coordinator(
        Ranked("abc"), strategy, FederationSettings(rounds=1), row, seed=3, select_by="ndcg@10",
        aggregator=strategy.aggregator(layout, row), ranks=RankLimits(layout, {"a": 1}, "abc", row),
        observer=lambda event: None,
    )  # fmt: skip
    tested.run()
    found = layout.views(tested.bank.rows)
    assert found["q.lora_A"][1].tolist() == [[2.0] * 3, [2.5] * 3], "means of 1, 2 and 3, and of 2 and 3"
    assert found["q.lora_B"][1].tolist() == [[2.0, 2.5]] * 3
    assert found["residual"][1].tolist() == [[6.0 if items == "sum" else 2.0] * 2] * 2


@pytest.mark.parametrize("away", [False, True])
def test_who_is_refused_keeps_a_part_of_its_row_and_is_no_newcomer(away):
    class Broken(Scripted):
        def train(self, tasks, observer, seconds=None):
            for update in super().train(tasks, observer, seconds):
                if update.client != "c" or update.round > 1:
                    yield update
                elif away:
                    yield Absence("c", update.round, "its disk is full")
                else:
                    yield replace(update, row=update.row * np.nan)

    tested = coordinator(Broken("abc"), "pplr", rounds=2, quorum=0.5)
    seen = []
    mix = tested._aggregate

    def watched(number, intake, *given):
        before = tested.bank.rows.clone()
        found = mix(number, intake, *given)
        seen.append((found.matrix @ before.double().numpy(), tested.bank.rows.clone()))
        return found

    tested._aggregate = watched
    first, second = tested.run().history
    assert first.quarantined == ([] if away else ["c"])
    own = [np.diag(record.mixing)[2] for record in (first, second)]
    assert own == [0, 0] if away else 0.3 < own[0] < 1, "only who was away from the start has nothing of its own"
    for expected, rows in seen:
        np.testing.assert_allclose(rows.numpy(), expected, rtol=1e-5)
    assert seen[0][1][2].any(), "its row moves"


def test_a_silo_that_got_worse_while_another_was_away_is_seen():
    """`hard` is better in the round in which `easy` is away, and `easy` is worse when it is back."""
    table = [{"easy": 0.9, "hard": 0.1}, {"hard": 0.2}, {"easy": 0.3, "hard": 0.2}, {"easy": 0.3, "hard": 0.2}]
    progress = coordinator(Absentminded(table), rounds=4, patience=4).run()
    assert progress.best_round == 2, "0.3 and 0.2 are compared with 0.9 and 0.2"
