"""The engine over a grid that is written down: who is asked, what counts as an answer, and how long is waited."""

from __future__ import annotations

import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from flwr.app import Error, Message
from flwr.supercore.task_identity import TaskIdentity

from pplr.data.dataset import Part
from pplr.errors import RunError
from pplr.federation.engines import flower
from pplr.federation.engines.flower import FlowerEngine
from pplr.federation.messages import Absence, EvaluateTask, Report, TrainTask, Update
from pplr.silos import codec
from pplr.silos.announcement import Announcement
from pplr.silos.parcel import Parcel, failure
from pplr.silos.records import content_of, parcel_of

ROW = torch.tensor([1.0, 2.0])


def announcement(name: str, **changes) -> Parcel:
    values = {
        "name": name, "version": "0", "examples": 5, "users": 3, "items": 9, "events": 30, "catalogue": "c", "model": "m",
        "weights": "w", "layout": "l", "parameters": 2, "shared": 2, "initial": "i", "select_by": "loss",
        "split": "leave-one-out", "settings": {}, "device": "cpu", "notes": [],
    }  # fmt: skip
    return Parcel("announcement", Announcement(**(values | changes)).model_dump())


class Grid:
    """Nodes with a function each, from a parcel to a parcel, an error's text, or None for silence."""

    def __init__(self, **nodes):
        self.nodes = dict(enumerate(nodes.values(), start=1))
        self.names = dict(enumerate(nodes, start=1))
        self.keys: dict[int, str] = {}
        self.waiting: dict[str, Message] = {}
        self.asked: list[tuple[int, str]] = []

    def get_nodes(self):
        return [SimpleNamespace(node_id=node, name=self.keys.get(node, "")) for node in self.nodes]

    def push_messages(self, messages):
        for message in messages:
            identity = f"message {len(self.asked)}"
            message.metadata.__dict__["_message_id"] = identity
            node = message.metadata.dst_node_id
            parcel = parcel_of(message.content)
            self.asked.append((node, parcel.kind))
            answer = self.nodes[node](parcel)
            if isinstance(answer, str):
                self.waiting[identity] = Message(Error(code=1, reason=answer), reply_to=message)
            elif answer is not None:
                self.waiting[identity] = Message(content_of(answer), reply_to=message)
            yield identity

    def pull_messages(self, identities):
        return [self.waiting.pop(identity) for identity in list(identities) if identity in self.waiting]


def honest(name: str, **changes):
    def answer(parcel: Parcel):
        if parcel.kind == "announce":
            return announcement(name, **changes)
        if parcel.kind == "train":
            task, asked = codec.train_task(parcel)
            return codec.update_parcel(Update(name, task.round, task.row + 1, 1.0, asked.examples, 7, {}))
        task, _ = codec.evaluate_task(parcel)
        return codec.report_parcel(Report(name, task.part, 0.5, 3))

    return answer


def but(name: str, kind: str, answer):
    return lambda parcel: answer if parcel.kind == kind else honest(name)(parcel)


@pytest.fixture(autouse=True)
def _serverapp_in_a_hurry(monkeypatch):
    for name in ("task_id", "run_id", "node_id"):
        monkeypatch.setattr(TaskIdentity, f"_{name}", 1)
    monkeypatch.setattr(flower, "RECONNECT_SECONDS", 0.05)
    monkeypatch.setattr(flower, "PULL_SECONDS", 0.01)


def engine(grid: Grid, names="ab", *, meet: bool = True):
    events = []
    made = FlowerEngine(grid, list(names), events.append)
    if meet:
        made.meet(0.2)
    return made, events


def tasks(names="ab"):
    return [TrainTask(name, 4, 0.5, ROW * (i + 1)) for i, name in enumerate(names)]


def test_each_silo_gets_its_own_row_by_its_name_not_its_place():
    grid = Grid(x=honest("b"), y=honest("a"))
    tested, _ = engine(grid)
    assert [info.name for info in tested.clients] == ["a", "b"]
    tested.admit(lambda announced: None, {"a": 3, "b": 4})
    updates = {update.client: update for update in tested.train(tasks(), lambda event: None)}
    assert torch.equal(updates["a"].row, ROW + 1) and torch.equal(updates["b"].row, 2 * ROW + 1)
    assert (updates["a"].targets, updates["b"].targets) == (3, 4), "each was told how many examples to use"
    reports = tested.evaluate([EvaluateTask(n, 4, Part.TEST, None, True) for n in "ba"], lambda event: None)
    assert [report.client for report in reports] == ["b", "a"], "in the order of the tasks"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("Node Unavailable", "Node Unavailable"),
        (failure("the disk is full"), "disk"),
        (None, "did not answer within"),
        (Parcel("report", {}), "kind 'report'"),
        (codec.update_parcel(Update("b", 4, ROW, 1.0, 1, 1, {})), "it says it is 'b'"),
    ],
)
def test_a_silo_without_a_usable_answer_is_absent_and_the_others_count(answer, words):
    tested, _ = engine(Grid(a=but("a", "train", answer), b=honest("b")))
    answers = {answer.client: answer for answer in tested.train(tasks(), lambda event: None, 0.3)}
    assert isinstance(answers["a"], Absence) and words in answers["a"].reason
    assert isinstance(answers["b"], Update)


def test_a_late_answer_is_never_taken():
    grid = Grid(a=but("a", "train", None), b=honest("b"))
    tested, _ = engine(grid)
    assert isinstance(next(u for u in tested.train(tasks(), lambda event: None, 0.1) if u.client == "a"), Absence)
    late = codec.update_parcel(Update("a", 4, ROW * 100, 1.0, 1, 1, {}))
    identity = f"message {next(i for i, (n, k) in enumerate(grid.asked) if (n, k) == (1, 'train'))}"
    grid.nodes[1] = honest("a")
    message = Message(content_of(late), 1, "train")
    message.metadata.__dict__["_message_id"] = identity
    grid.waiting[identity] = Message(content_of(late), reply_to=message)
    rows = [u.row for u in tested.train(tasks(), lambda event: None, 0.3) if u.client == "a"]
    assert torch.equal(rows[0], ROW + 1)


def test_a_silo_that_is_away_takes_nothing_of_the_others_time(monkeypatch):
    monkeypatch.setattr(flower, "RECONNECT_SECONDS", 10.0)
    slow = honest("a")
    grid = Grid(x=slow, y=honest("b"))
    tested, _ = engine(grid)
    away = grid.nodes.pop(2)
    began = time.monotonic()
    answers = [(one, time.monotonic() - began) for one in tested.train(tasks(), lambda event: None, seconds=0.5)]
    (first, after), (second, _) = answers
    assert isinstance(first, Update) and first.client == "a" and after < 0.3, "it was asked at once"
    assert second == Absence("b", 4, "it is not connected")

    def back(event):
        if event.name == "client_trained":
            grid.nodes[2] = away

    there = {answer.client: answer for answer in tested.train(tasks(), back, seconds=5.0)}
    assert isinstance(there["b"], Update), "it came back while the others trained"


def test_strangers_and_borrowed_keys_are_not_let_in():
    grid = Grid(a=honest("a"), b=honest("b"), z=honest("z"))
    grid.keys = {1: "a", 2: "a"}
    tested, events = engine(grid, meet=False)
    with pytest.raises(RunError, match=r"b had not connected; there are a\."):
        tested.meet(0.1)
    refused = {event.client: event.data["reason"] for event in events if event.name == "silo_refused"}
    assert refused == {"b": "its key is that of a", "z": "it is not among federation.silos"}


def test_a_silo_that_comes_back_on_another_node_is_asked_there_and_held_to_the_agreement():
    grid = Grid(a=honest("a"), b=honest("b"))
    tested, events = engine(grid)
    tested.admit(lambda announced: "other weights" if announced.weights != "w" else None, {"a": 5, "b": 5})
    grid.nodes = {2: grid.nodes[2], 7: honest("a", weights="v")}
    found = {u.client: u for u in tested.train(tasks(), lambda event: None, 0.2)}
    assert isinstance(found["a"], Absence) and "not connected" in found["a"].reason
    grid.nodes = {2: grid.nodes[2], 8: honest("a")}
    assert {type(u) for u in tested.train(tasks(), lambda event: None, 0.2)} == {Update}
    assert (8, "train") in grid.asked and (7, "train") not in grid.asked
    assert [e.name for e in events if e.client == "a"] == [
        "silo_connected",
        "silo_left",
        "silo_refused",
        "silo_connected",
    ]


def test_a_node_that_cannot_say_its_name_is_asked_again(monkeypatch):
    monkeypatch.setattr(flower, "AGAIN_SECONDS", 0.05)
    grid = Grid(a=but("a", "announce", "starting"), b=honest("b"))
    tested, events = engine(grid, meet=False)
    with pytest.raises(RunError):
        tested.meet(0.1)
    grid.nodes[1] = honest("a")
    tested.meet(1.0)
    assert "node_refused" in {event.name for event in events}


FIGURES = {f"{name}@{k}": 0.25 for name in ("recall", "ndcg") for k in (5, 10)}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"metrics": {"ndcg@10": 0.5}}, "other figures"),
        ({"metrics": FIGURES | {"<b>": 0.5}}, "other figures"),
        ({"metrics_alone": FIGURES | {"client": 0.5}}, "other figures"),
        ({"metrics": FIGURES | {"ndcg@10": 1e308}}, "not between 0 and 1"),
        ({"metrics": FIGURES | {"ndcg@10": -0.5}}, "not between 0 and 1"),
        ({"loss": 1e300}, "its loss is 1e+300"),
        ({"loss": -1.0}, "its loss is -1.0"),
        ({"users": 4}, "4 users, and has announced fewer"),
        ({"part": Part.VALIDATION}, "something else"),
    ],
)
def test_a_report_that_no_honest_silo_sends_is_left_out(changes, words):
    report = Report("a", Part.TEST, 0.5, 3, FIGURES, metrics_alone=FIGURES)
    grid = Grid(a=but("a", "evaluate", codec.report_parcel(replace(report, **changes))), b=honest("b"))
    tested = FlowerEngine(grid, ["a", "b"], lambda event: None, ks=(5, 10))
    tested.meet(0.2)
    seen = []
    reports = tested.evaluate([EvaluateTask(n, 4, Part.TEST, None, True) for n in "ab"], seen.append, 0.3)
    assert [one.client for one in reports] == ["b"]
    assert [event.client for event in seen] == ["a"] and words in seen[0].data["reason"]
    grid.nodes[1] = but("a", "evaluate", codec.report_parcel(report))
    assert [one.metrics for one in tested.evaluate([EvaluateTask("a", 4, Part.TEST, None, True)], seen.append)] == [
        FIGURES
    ]


@pytest.mark.parametrize("ks", [(5, 20), (10,)])
def test_a_validation_has_the_figure_by_which_rows_are_chosen_whatever_lengths_are_tested(ks):
    figures = {f"{name}@{k}": 0.25 for name in ("recall", "ndcg") for k in {*ks, 10}}
    report = Report("a", Part.VALIDATION, 0.5, 3, figures)
    tested = FlowerEngine(Grid(a=but("a", "evaluate", codec.report_parcel(report))), ["a"], lambda event: None, ks=ks)
    tested.meet(0.2)
    task = EvaluateTask("a", 4, Part.VALIDATION, ROW, True)
    assert [one.metrics for one in tested.evaluate([task], lambda event: None, 0.3)] == [figures]


def test_what_flower_itself_cannot_read_is_one_silos_and_nobody_elses():
    class Breaking(Grid):
        def pull_messages(self, identities):
            for identity in identities:
                found = self.waiting.get(identity)
                if found is not None and found.has_error() and found.error.reason == "garbage":
                    del self.waiting[identity]
                    raise KeyError("Evil\x1b[2J")
            return super().pull_messages(identities)

    tested, _ = engine(Breaking(a=but("a", "train", "garbage"), b=honest("b")))
    answers = {answer.client: answer for answer in tested.train(tasks(), lambda event: None, 0.3)}
    assert answers["a"].unusable and "cannot be read (KeyError" in answers["a"].reason
    assert "\x1b" not in answers["a"].reason
    assert isinstance(answers["b"], Update)


def test_the_way_to_the_silos_is_nobodys_answer():
    class Away(Grid):
        def pull_messages(self, identities):
            raise ConnectionError("the SuperLink is away")

    tested = FlowerEngine(Away(a=honest("a")), ["a"], lambda event: None)
    with pytest.raises(ConnectionError):
        tested.meet(0.2)


@pytest.mark.parametrize("text", ["\x1b[2J full", "a\nb", "x" * 10_000])
def test_a_silos_words_are_shown_without_control_characters(text):
    tested, _ = engine(Grid(a=but("a", "train", failure(text)), b=honest("b")))
    (absence,) = [one for one in tested.train(tasks(), lambda event: None, 0.3) if isinstance(one, Absence)]
    assert absence.reason.isprintable() and len(absence.reason) <= 2_000


def test_a_task_says_of_which_run_it_is():
    told = []

    def listening(parcel):
        if parcel.kind == "train":
            told.append(codec.train_task(parcel)[1].run)
        return honest("a")(parcel)

    tested, _ = engine(Grid(a=listening), "a")
    for run in ("one", "another"):
        tested.begin(run)
        list(tested.train(tasks("a"), lambda event: None, 0.3))
    assert told == ["one", "another"]


def test_names_of_settings_are_shown_without_control_characters():
    shown = announcement("a", settings={"\x1b[2J": "\x07"})
    assert all(text.isprintable() for pair in parsed_announcement(shown).settings.items() for text in pair)


def parsed_announcement(parcel: Parcel) -> Announcement:
    return codec.parsed(parcel, "announcement", Announcement)
