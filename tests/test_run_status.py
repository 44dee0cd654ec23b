"""Where a run stands is told from its log and its lock, whatever moment it is looked at."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from filelock import FileLock

from pplr.errors import RunError
from pplr.run_status import newest_run, run_status
from pplr.silos.plan import Plan, work_folder

STARTED = {"event": "round_started", "round": 1, "rounds": 4, "clients": ["a", "b", "c"]}


def logged(path: Path, *events: dict) -> None:
    lines = [json.dumps({"time": 1000.0 + number, **event}) for number, event in enumerate(events)]
    path.write_text("".join(f"{line}\n" for line in lines))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run folder, and the coordinator's work folder beside it with the plan of three silos."""
    folder, work = tmp_path / "run", work_folder(tmp_path / "run")
    folder.mkdir()
    work.mkdir()
    Plan(str(work), str(work / "config.toml"), str(folder), ("a", "b", "c"), False, False, 60.0).write(
        work / "plan.json"
    )
    return folder


def connected(name: str) -> dict:
    return {"event": "silo_connected", "client": name, "examples": 5}


def test_silos_that_are_waited_for_are_seen_before_there_is_a_run(folder: Path) -> None:
    logged(
        work_folder(folder) / "meeting.jsonl",
        connected("a"),
        {"event": "silo_refused", "client": "b", "reason": "other weights"},
        {"event": "silo_refused", "client": "z", "reason": "not among federation.silos"},
    )
    lock = FileLock(folder / ".lock")
    with lock:
        found = run_status(folder)
    assert (found.phase, found.running, found.round, found.last) == ("waiting for silos", True, 0, 1002.0)
    assert [(silo.name, silo.state, silo.reason) for silo in found.silos] == [
        ("a", "alive", None),
        ("b", "awaited", "other weights"),
        ("c", "awaited", None),
    ]
    assert run_status(folder).running is False, "its process has ended"


def test_each_silo_has_the_state_of_the_last_round_in_which_it_was_asked(folder: Path) -> None:
    (folder / "run.json").write_text("{}")
    trained = [{"event": "client_trained", "round": 1, "client": name, "loss": 2.0} for name in ("a", "b")]
    refused = {"event": "quarantined", "round": 1, "client": "b", "reason": "its loss is 900"}
    late = {"event": "absent", "round": 1, "client": "c", "reason": "it did not answer within 5 seconds"}
    first = [*map(connected, "abc"), STARTED, *trained, refused, late]
    logged(folder / "events.jsonl", *first)
    states = {silo.name: (silo.state, silo.trained) for silo in run_status(folder).silos}
    assert states == {"a": ("alive", 1), "b": ("quarantined", 1), "c": ("late", None)}
    validated = [
        {"event": "client_validated", "round": 1, "client": "a", "loss": 1.5, "ndcg@10": 0.25},
        {"event": "round_finished", "round": 1, "score": 0.2, "seconds": {}},
    ]
    second = [
        STARTED | {"round": 2},
        {"event": "client_trained", "round": 2, "client": "b", "loss": 1.0},
        {"event": "client_trained", "round": 2, "client": "c", "loss": 1.0},
        {"event": "silo_left", "client": "c"},
        {"event": "absent", "round": 2, "client": "a", "reason": "Its disk is full."},
    ]
    logged(folder / "events.jsonl", *first, *validated, *second)
    found = run_status(folder)
    assert (found.phase, found.round, found.rounds, found.score, found.running) == ("training", 2, 4, 0.2, False)
    a, b, c = found.silos
    assert (a.state, a.reason, a.validation_loss, a.ndcg) == ("absent", "Its disk is full.", 1.5, 0.25)
    assert (b.state, b.reason, b.training_loss) == ("alive", None, 1.0)
    assert (c.state, c.trained) == ("away", 2)


def test_bytes_are_those_of_finished_rounds(folder: Path) -> None:
    (folder / "run.json").write_text("{}")
    logged(folder / "events.jsonl", STARTED)
    assert (run_status(folder).bytes_up, run_status(folder).bytes_down) == (0, 0)
    for number in (1, 2):
        checkpoint = folder / "checkpoints" / f"round-{number:04d}"
        checkpoint.mkdir(parents=True)
        history = [{"bytes_up": 10, "bytes_down": 30}] * number
        (checkpoint / "progress.json").write_text(json.dumps({"history": history}))
    assert (run_status(folder).bytes_up, run_status(folder).bytes_down) == (20, 60)


def test_a_finished_run_agrees_with_its_result(finished) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.folder.rglob("*")}
    found = run_status(finished.folder)
    assert (found.phase, found.running) == ("finished", False)
    last = finished.metrics["rounds"][-1]
    assert (found.round, found.score) == (last["round"], last["score"])
    assert {silo.name: silo.validation_loss for silo in found.silos} == {
        name: client["validation_loss"] for name, client in last["clients"].items()
    }
    assert found.bytes_up == finished.metrics["cost"]["bytes_up"]
    assert {path: path.stat().st_mtime_ns for path in finished.folder.rglob("*")} == before, "it only reads"


def test_half_a_line_is_passed_over_and_no_run_is_a_sentence(folder: Path, tmp_path: Path) -> None:
    (folder / "run.json").write_text("{}")
    logged(folder / "events.jsonl", STARTED)
    with (folder / "events.jsonl").open("a") as file:
        file.write('{"event": "client_tra')
    assert run_status(folder).phase == "training"
    assert newest_run(tmp_path) == folder
    with pytest.raises(RunError, match="There is no run in"):
        run_status(tmp_path / "other")
    with pytest.raises(RunError, match="Name the folder of one"):
        newest_run(tmp_path / "other")
