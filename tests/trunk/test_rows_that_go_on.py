"""What a trunk's server remembers of rounds: states to go back to, and moments from which optimisers go on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from trunk_rows import CLIENTS, LAYOUT, fresh_rows, gradient, train

from pplr.errors import CheckpointError, RunError
from pplr.training.optimiser import RowOptimiser
from pplr.trunk.control import DirectControl
from pplr.trunk.rows import ServerRows
from pplr.trunk.store import StateFolder


def _copied(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in state.items()}


def _keeping() -> ServerRows:
    return ServerRows(LAYOUT, CLIENTS, LAYOUT.initial_row(1), 0.1, keep_moments=True)


def _after_round_1() -> ServerRows:
    rows = _keeping()
    rows.begin_round(1)
    for client in CLIENTS:
        train(rows, client, 2)
        rows.finish(client)
    rows.mix(torch.full((3, 3), 1 / 3), 1)
    return rows


def _round_2(rows: ServerRows, client: str = "ada") -> torch.Tensor:
    """Train in round 2 from its beginning, and return the row."""
    rows.start(client, 2)
    train(rows, client, 3)
    rows.finish(client)
    return rows.row(client).clone()


def _stepped(optimiser: RowOptimiser, steps: int) -> RowOptimiser:
    for step in range(steps):
        optimiser.zero()
        optimiser.row.gradient.add_(gradient("ada", step))
        optimiser.step(0.1, 0.5)
    return optimiser


def test_one_process_goes_back_to_newest_rounds_and_to_the_beginning_and_keeps_no_others() -> None:
    rows = fresh_rows()
    control, after = DirectControl(rows), {0: rows.bank.rows.clone()}
    for number in range(1, 7):
        control.begin_round(number)
        train(rows, "ada", 1)
        rows.finish("ada")
        control.mix(torch.eye(3), number)
        control.save(number)
        after[number] = rows.bank.rows.clone()
    for number in (0, 4, 5, 6):
        control.restore(number)
        assert torch.equal(rows.bank.rows, after[number])
    with pytest.raises(CheckpointError, match="after round 3 were not kept"):
        control.restore(3)
    control.restore(0)
    control.save(1)
    control.restore(1)
    assert torch.equal(rows.bank.rows, after[0])
    with pytest.raises(CheckpointError, match="after round 6 were not kept"):
        control.restore(6)


def test_a_server_that_went_back_keeps_what_comes_then_and_nothing_of_the_course_that_was_given_up(
    tmp_path: Path,
) -> None:
    rows, folder = fresh_rows(), StateFolder(tmp_path)
    for number in range(7):
        folder.save_round(rows, number)
    folder.save_round(rows, 1)
    assert sorted(path.name for path in (tmp_path / "rounds").iterdir()) == ["round-0000", "round-0001"]


def test_kept_moments_go_on_from_the_round_before() -> None:
    rows = _after_round_1()
    first = _stepped(RowOptimiser(LAYOUT, LAYOUT.initial_row(1), 0.1), 2)
    second = RowOptimiser(LAYOUT, rows.row("ada"), 0.1)
    second.take_up(first.moments())
    expected = _stepped(second, 3).row.values
    rows.begin_round(2)
    assert torch.equal(_round_2(rows), expected)
    assert torch.equal(_round_2(rows), expected), "a round that is trained again starts where it started"
    fresh = fresh_rows(0.1)
    fresh.bank.rows.copy_(_after_round_1().bank.rows)
    fresh.begin_round(2)
    assert not torch.equal(_round_2(fresh), expected)


@pytest.mark.parametrize("when", ["after round 1", "midst of round 2", "after a training in round 2"])
def test_kept_moments_outlive_a_restart_at_any_moment(when: str) -> None:
    rows = _after_round_1()
    saved = _copied(rows.state())
    rows.begin_round(2)
    whole = _copied(rows.whole_state())
    expected = _round_2(rows)
    trained = _copied(rows.client_state("ada"))
    again = _keeping()
    if when == "after round 1":
        again.restore(saved, 1)
        again.begin_round(2)
    else:
        again.restore_whole(whole, 2, mixed=1)
    if when == "after a training in round 2":
        again.restore_client("ada", trained, 3)
        assert torch.equal(again.row("ada"), expected)
        again.restore_whole(_copied(again.whole_state()), 2, mixed=1)
    else:
        assert torch.equal(_round_2(again), expected)
    for one in (rows, again):
        one.begin_round(3)
        one.start("ada", 3)
        train(one, "ada", 1)
    assert torch.equal(again.training("ada").row.values, rows.training("ada").row.values)


def test_a_server_that_begins_afresh_takes_no_moments_and_one_that_keeps_them_refuses_those_of_another_model() -> None:
    state = _after_round_1().state()
    afresh = fresh_rows(0.1)
    afresh.restore(state, 1)
    assert not [name for name in afresh.state() if name.startswith("moments.")]
    with pytest.raises(RunError, match="do not fit client ada"):
        _keeping().restore(state | {"moments.exp_avg/ada": torch.zeros(2)}, 1)
    with pytest.raises(RunError, match="do not fit client bob"):
        _keeping().restore({name: value for name, value in state.items() if name != "moments.step/bob"}, 1)
    again = _keeping()
    again.restore(state | {"moments.exp_avg/eve": torch.zeros(2)}, 1)
    assert not [name for name in again.state() if name.endswith("/eve")]


def test_kept_moments_are_on_the_disk_of_the_server(tmp_path: Path) -> None:
    rows, folder = _after_round_1(), StateFolder(tmp_path)
    folder.save_round(rows, 1)
    rows.begin_round(2)
    folder.save_all(rows)
    expected = _round_2(rows)
    folder.save_client(rows, "ada")
    again = _keeping()
    StateFolder(tmp_path).load(again)
    assert torch.equal(again.row("ada"), expected)
    for one in (rows, again):
        one.begin_round(3)
        one.start("ada", 3)
        train(one, "ada", 1)
    assert torch.equal(again.training("ada").row.values, rows.training("ada").row.values)
    back = _keeping()
    StateFolder(tmp_path).restore_round(back, 1)
    back.begin_round(2)
    assert torch.equal(_round_2(back), expected)


def test_moments_of_a_training_that_did_not_count_are_forgotten() -> None:
    rows, absent = _after_round_1(), _after_round_1()
    for one in (rows, absent):
        one.begin_round(2)
    _round_2(rows)
    rows.leave_out(["ada"], 2)
    for one in (rows, absent):
        one.begin_round(3)
        one.start("ada", 3)
        train(one, "ada", 1)
    assert torch.equal(rows.training("ada").row.values, absent.training("ada").row.values)
    rows.forget(["ada"])
    assert not [name for name in rows.whole_state() if name.endswith("/ada")]
