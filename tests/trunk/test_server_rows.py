"""Rows on the server and rows at the client together behave like whole rows in one place."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pplr.errors import CheckpointError, RunError
from pplr.models.bank import AdapterBank
from pplr.models.layout import Layout, ParameterSpec, kaiming
from pplr.training.optimiser import Pull, RowOptimiser
from pplr.trunk.control import DirectControl
from pplr.trunk.rows import ServerRows
from pplr.trunk.store import StateFolder

LAYOUT = Layout([ParameterSpec("a", (2, 3), kaiming), ParameterSpec("b", (4,), kaiming)])
CLIENTS = ("ada", "bob", "cyd")


def _rows(weight_decay: float = 0.0) -> ServerRows:
    return ServerRows(LAYOUT, CLIENTS, LAYOUT.initial_row(1), weight_decay)


def _gradient(client: str, step: int) -> torch.Tensor:
    seed = CLIENTS.index(client) * 100 + step
    return torch.randn(LAYOUT.size, generator=torch.Generator().manual_seed(seed))


def _train(rows: ServerRows, client: str, steps: int, start: int = 0) -> None:
    for step in range(start, steps):
        rows.training(client).row.gradient.add_(_gradient(client, step))
        rows.step(client, step + 1, 0.1, 0.5)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 99), st.booleans())
def test_gram_matrices_and_mixing_of_two_places_are_those_of_the_whole(seed: int, updates: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    before, after = torch.randn(2, 3, 15, generator=generator)
    server = _rows()
    server.bank.rows.copy_(before[:, 5:])
    server.begin_round(1)
    server.bank.rows.copy_(after[:, 5:])
    here = AdapterBank(CLIENTS, after[:, :5].clone())
    whole = AdapterBank(CLIENTS, after.clone())
    reference = AdapterBank(CLIENTS, before) if updates else None
    part = AdapterBank(CLIENTS, before[:, :5]) if updates else None
    torch.testing.assert_close(
        here.gram(part) + server.gram(updates=updates), whole.gram(reference), rtol=1e-5, atol=1e-5
    )
    mixing = torch.softmax(torch.randn(3, 3, generator=generator), dim=1)
    for bank in (here, whole):
        bank.mix_(mixing)
    server.mix(mixing, 1)
    torch.testing.assert_close(torch.cat([here.rows, server.bank.rows], dim=1), whole.rows)


def test_a_client_trains_its_own_row_only_and_it_counts_when_finished() -> None:
    rows = _rows()
    rows.begin_round(1)
    before = rows.bank.rows.clone()
    _train(rows, "bob", 3)
    assert torch.equal(rows.bank.rows, before)
    rows.finish("bob")
    changed = (rows.bank.rows != before).any(dim=1).tolist()
    assert changed == [False, True, False]
    assert rows.gram(updates=True).diagonal().gt(0).tolist() == changed


def test_a_step_is_taken_once_and_none_is_left_out() -> None:
    rows = _rows()
    rows.begin_round(1)
    _train(rows, "ada", 2)
    values = rows.training("ada").row.values.clone()
    rows.step("ada", 2, 0.1, 0.5)  # asked for again, after its answer was lost
    assert torch.equal(rows.training("ada").row.values, values)
    assert rows.steps("ada") == 2
    with pytest.raises(RunError, match="asks for step 4 of round 1, but its row has taken 2"):
        rows.step("ada", 4, 0.1, 0.5)


def test_training_goes_on_bit_for_bit_after_a_restart() -> None:
    straight = _rows(0.1)
    straight.begin_round(1)
    _train(straight, "ada", 6)
    straight.finish("ada")
    first = _rows(0.1)
    first.begin_round(1)
    saved = {name: value.clone() for name, value in first.state().items()}
    _train(first, "ada", 4)
    training = {name: value.clone() for name, value in first.training_state("ada").items()}
    second = ServerRows(LAYOUT, CLIENTS, torch.zeros(LAYOUT.size), 0.1)
    second.restore(saved, 0)
    second.begin_round(1)
    second.restore_training("ada", training, 4)
    _train(second, "ada", 6, start=4)
    second.finish("ada")
    assert torch.equal(second.bank.rows, straight.bank.rows)


def _copied(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in state.items()}


def _keeping() -> ServerRows:
    return ServerRows(LAYOUT, CLIENTS, LAYOUT.initial_row(1), 0.1, keep_moments=True)


def _after_round_1() -> ServerRows:
    rows = _keeping()
    rows.begin_round(1)
    for client in CLIENTS:
        _train(rows, client, 2)
        rows.finish(client)
    rows.mix(torch.full((3, 3), 1 / 3), 1)
    return rows


def _round_2(rows: ServerRows, client: str = "ada") -> torch.Tensor:
    """Train in round 2 from its beginning, and return the row."""
    rows.start(client, 2)
    _train(rows, client, 3)
    rows.finish(client)
    return rows.row(client).clone()


def _stepped(optimiser: RowOptimiser, steps: int) -> RowOptimiser:
    for step in range(steps):
        optimiser.zero()
        optimiser.row.gradient.add_(_gradient("ada", step))
        optimiser.step(0.1, 0.5)
    return optimiser


def test_one_process_goes_back_to_newest_rounds_and_to_the_beginning_and_keeps_no_others() -> None:
    rows = _rows()
    control, after = DirectControl(rows), {0: rows.bank.rows.clone()}
    for number in range(1, 7):
        control.begin_round(number)
        _train(rows, "ada", 1)
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
    rows, folder = _rows(), StateFolder(tmp_path)
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
    fresh = _rows(0.1)
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
        _train(one, "ada", 1)
    assert torch.equal(again.training("ada").row.values, rows.training("ada").row.values)


def test_a_server_that_begins_afresh_takes_no_moments_and_one_that_keeps_them_refuses_those_of_another_model() -> None:
    state = _after_round_1().state()
    afresh = _rows(0.1)
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
        _train(one, "ada", 1)
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
        _train(one, "ada", 1)
    assert torch.equal(rows.training("ada").row.values, absent.training("ada").row.values)
    rows.forget(["ada"])
    assert not [name for name in rows.whole_state() if name.endswith("/ada")]


def test_best_rows_outlive_mixing_and_a_restart() -> None:
    rows = _rows()
    rows.keep("cyd")
    best = rows.row("cyd", best=True).clone()
    rows.begin_round(3)
    rows.mix(torch.full((3, 3), 0.5), 3)
    assert not torch.equal(rows.row("cyd"), best)
    again = _rows()
    again.restore(rows.state(), 3)
    assert torch.equal(again.row("cyd", best=True), best)
    assert torch.equal(again.row("cyd"), rows.row("cyd"))
    assert again.round == 3
    with pytest.raises(RunError, match="ada has not kept any row"):
        again.row("ada", best=True)


def test_a_new_round_begins_afresh() -> None:
    rows = _rows()
    rows.begin_round(1)
    _train(rows, "ada", 2)
    rows.begin_round(1)  # the round is trained again: what was not finished is gone
    assert rows.steps("ada") == 0
    assert torch.equal(rows.training("ada").row.values, rows.row("ada"))


def test_rows_are_mixed_once_a_round_and_only_in_theirs() -> None:
    rows = _rows()
    rows.begin_round(1)
    _train(rows, "ada", 2)
    rows.finish("ada")
    mixing = torch.softmax(torch.randn(3, 3, generator=torch.Generator().manual_seed(1)), dim=1)
    rows.mix(mixing, 1)
    once = rows.bank.rows.clone()
    rows.mix(mixing, 1)  # asked for again, after its answer was lost
    assert torch.equal(rows.bank.rows, once)
    with pytest.raises(RunError, match="Rows of round 2 are to be mixed, but round 1 is on"):
        rows.mix(mixing, 2)


def test_a_client_starts_again_from_what_it_received() -> None:
    rows = _rows()
    rows.begin_round(1)
    _train(rows, "ada", 2)
    rows.finish("ada")
    trained = rows.row("ada").clone()
    rows.start("ada", 1)  # its update was lost, so it trains again
    _train(rows, "ada", 2)
    rows.finish("ada")
    assert torch.equal(rows.row("ada"), trained)
    with pytest.raises(RunError, match="wants to train in round 2, but round 1 is on"):
        rows.start("ada", 2)


def test_parameters_are_those_in_training_until_it_is_finished() -> None:
    rows = _rows()
    rows.begin_round(1)
    rows.keep("ada")
    _train(rows, "ada", 1)
    training = rows.training("ada").row.values.detach().clone()
    assert torch.equal(rows.parameters("ada")["b"], training[6:])
    assert torch.equal(rows.parameters("ada", best=True)["b"], rows.row("ada")[6:])
    assert not torch.equal(rows.parameters("ada")["b"], rows.row("ada")[6:])


def test_what_does_not_belong_is_refused() -> None:
    rows = _rows()
    with pytest.raises(RunError, match=r"no client 'adda' on this server.* 'ada'"):
        rows.training("adda")
    with pytest.raises(RunError, match="No round has begun"):
        rows.gram(updates=True)
    state = rows.state()
    del state["row/bob"]
    with pytest.raises(RunError, match="do not fit client bob"):
        _rows().restore(state, 1)
    other = ServerRows(Layout(LAYOUT.specs[:1]), CLIENTS, torch.zeros(6))
    with pytest.raises(RunError, match="do not fit client ada"):
        other.restore(rows.state(), 1)


def test_a_pull_towards_what_was_received_is_the_same_in_two_places_as_in_one() -> None:
    whole = Layout([ParameterSpec("x", (4,), kaiming), *LAYOUT.specs])
    here = Layout(whole.specs[:1])
    start = whole.initial_row(3)
    rows = ServerRows(LAYOUT, CLIENTS, start[4:], 0.1, proximal=2.0)
    rows.begin_round(1)
    one = RowOptimiser(whole, start, 0.1, Pull(2.0, start))
    ours = RowOptimiser(here, start[:4], 0.1, Pull(2.0, start[:4]))
    free = RowOptimiser(whole, start, 0.1)
    for step in range(1, 5):
        gradient = torch.randn(whole.size, generator=torch.Generator().manual_seed(step))
        for optimiser, part in ((one, gradient), (free, gradient), (ours, gradient[:4])):
            optimiser.zero()
            optimiser.row.gradient.add_(part)
        rows.training("ada").row.gradient.add_(gradient[4:])
        norms = [rows.training("ada").squared_norm() for _ in range(2)]
        assert norms[0] == norms[1], "asking again changes nothing"
        assert ours.squared_norm() + norms[0] == pytest.approx(one.squared_norm(), rel=1e-5)
        for optimiser in (one, free, ours):
            optimiser.step(0.1, 0.5)
        rows.step("ada", step, 0.1, 0.5)
    found = torch.cat([ours.row.values, rows.training("ada").row.values])
    torch.testing.assert_close(found, one.row.values)
    assert (free.row.values - one.row.values).abs().max() > 1e-3


def test_what_is_private_on_the_server_is_neither_compared_nor_mixed() -> None:
    layout = Layout([LAYOUT.specs[0].kept(), LAYOUT.specs[1], ParameterSpec("c", (5,), kaiming).fixed()])
    rows = ServerRows(layout, CLIENTS, layout.initial_row(1))
    rows.begin_round(1)
    rows.bank.rows.copy_(torch.randn(3, layout.size, generator=torch.Generator().manual_seed(1)))
    before = rows.bank.rows.clone()
    shared = before[:, : layout.shared].double()
    torch.testing.assert_close(rows.gram(updates=False), shared @ shared.T, rtol=1e-5, atol=1e-6)
    rows.mix(torch.full((3, 3), 1 / 3), 1)
    assert torch.equal(rows.bank.rows[:, layout.shared :], before[:, layout.shared :])
    mean = shared.mean(0).float()
    torch.testing.assert_close(rows.bank.rows[:, : layout.shared], mean.expand(3, -1))
    training = rows.training("bob").row
    assert [name for name, leaf in training.named.items() if not leaf.requires_grad] == ["c"]


def test_a_round_that_goes_on_without_a_client_leaves_no_trace_of_it() -> None:
    rows, alone = _rows(), _rows()
    for one in (rows, alone):
        one.begin_round(1)
        _train(one, "ada", 2)
        one.finish("ada")
    _train(rows, "bob", 3)
    rows.finish("bob")  # its answer is lost
    _train(rows, "cyd", 1)  # and it is not done
    for _ in range(2):  # the request may be sent again
        rows.leave_out(["bob", "cyd"], 1)
    assert torch.equal(rows.bank.rows, alone.bank.rows)
    assert torch.equal(rows.gram(updates=True), alone.gram(updates=True))
    mixing = torch.full((3, 3), 1 / 3)
    for one in (rows, alone):
        one.mix(mixing, 1)
    rows.leave_out(["bob"], 1)
    for late in (lambda: rows.finish("cyd"), lambda: rows.step("bob", 4, 0.1, 0.5), lambda: rows.start("bob", 1)):
        with pytest.raises(RunError, match=r"Round 1 has gone on without client (bob|cyd)"):
            late()
    assert torch.equal(rows.bank.rows, alone.bank.rows)
    for one in (rows, alone):
        one.begin_round(2)
        _train(one, "bob", 1)
        one.finish("bob")
    assert torch.equal(rows.bank.rows, alone.bank.rows)


def test_only_clients_of_this_round_can_be_left_out() -> None:
    rows = _rows()
    with pytest.raises(RunError, match="round 0 is on"):
        rows.leave_out(["bob"], 1)
    rows.begin_round(1)
    with pytest.raises(RunError, match="no client 'eve'"):
        rows.leave_out(["bob", "eve"], 1)
    assert rows.left_out == frozenset()
