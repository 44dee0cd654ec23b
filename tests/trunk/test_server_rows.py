"""Rows on the server and rows at the client together behave like whole rows in one place."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from trunk_rows import CLIENTS, LAYOUT, fresh_rows, train

from pplr.errors import RunError
from pplr.models.bank import AdapterBank, gram
from pplr.models.layout import Layout, ParameterSpec, kaiming
from pplr.training.optimiser import Pull, RowOptimiser
from pplr.trunk.rows import ServerRows


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 99), st.booleans())
def test_gram_matrices_and_mixing_of_two_places_are_those_of_the_whole(seed: int, updates: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    before, after = torch.randn(2, 3, 15, generator=generator)
    server = fresh_rows()
    server.bank.rows.copy_(before[:, 5:])
    server.begin_round(1)
    server.bank.rows.copy_(after[:, 5:])
    here = AdapterBank(CLIENTS, after[:, :5].clone())
    whole = AdapterBank(CLIENTS, after.clone())
    reference, part = (before, before[:, :5]) if updates else (None, None)
    torch.testing.assert_close(
        gram(here.rows, part) + server.gram(updates=updates), gram(whole.rows, reference), rtol=1e-5, atol=1e-5
    )
    mixing = torch.softmax(torch.randn(3, 3, generator=generator), dim=1)
    for bank in (here, whole):
        bank.mix_(mixing)
    server.mix(mixing, 1)
    torch.testing.assert_close(torch.cat([here.rows, server.bank.rows], dim=1), whole.rows)


def test_a_client_trains_its_own_row_only_and_it_counts_when_finished() -> None:
    rows = fresh_rows()
    rows.begin_round(1)
    before = rows.bank.rows.clone()
    train(rows, "bob", 3)
    assert torch.equal(rows.bank.rows, before)
    rows.finish("bob")
    changed = (rows.bank.rows != before).any(dim=1).tolist()
    assert changed == [False, True, False]
    assert rows.gram(updates=True).diagonal().gt(0).tolist() == changed


def test_a_step_is_taken_once_and_none_is_left_out() -> None:
    rows = fresh_rows()
    rows.begin_round(1)
    train(rows, "ada", 2)
    values = rows.training("ada").row.values.clone()
    rows.step("ada", 2, 0.1, 0.5)  # asked for again, after its answer was lost
    assert torch.equal(rows.training("ada").row.values, values)
    assert rows.steps("ada") == 2
    with pytest.raises(RunError, match="asks for step 4 of round 1, but its row has taken 2"):
        rows.step("ada", 4, 0.1, 0.5)


def test_training_goes_on_bit_for_bit_after_a_restart() -> None:
    straight = fresh_rows(0.1)
    straight.begin_round(1)
    train(straight, "ada", 6)
    straight.finish("ada")
    first = fresh_rows(0.1)
    first.begin_round(1)
    saved = {name: value.clone() for name, value in first.state().items()}
    train(first, "ada", 4)
    training = {name: value.clone() for name, value in first.training_state("ada").items()}
    second = ServerRows(LAYOUT, CLIENTS, torch.zeros(LAYOUT.size), 0.1)
    second.restore(saved, 0)
    second.begin_round(1)
    second.restore_training("ada", training, 4)
    train(second, "ada", 6, start=4)
    second.finish("ada")
    assert torch.equal(second.bank.rows, straight.bank.rows)


def test_best_rows_outlive_mixing_and_a_restart() -> None:
    rows = fresh_rows()
    rows.keep("cyd")
    best = rows.row("cyd", best=True).clone()
    rows.begin_round(3)
    rows.mix(torch.full((3, 3), 0.5), 3)
    assert not torch.equal(rows.row("cyd"), best)
    again = fresh_rows()
    again.restore(rows.state(), 3)
    assert torch.equal(again.row("cyd", best=True), best)
    assert torch.equal(again.row("cyd"), rows.row("cyd"))
    assert again.round == 3
    with pytest.raises(RunError, match="ada has not kept any row"):
        again.row("ada", best=True)


def test_a_new_round_begins_afresh() -> None:
    rows = fresh_rows()
    rows.begin_round(1)
    train(rows, "ada", 2)
    rows.begin_round(1)  # the round is trained again: what was not finished is gone
    assert rows.steps("ada") == 0
    assert torch.equal(rows.training("ada").row.values, rows.row("ada"))


def test_rows_are_mixed_once_a_round_and_only_in_theirs() -> None:
    rows = fresh_rows()
    rows.begin_round(1)
    train(rows, "ada", 2)
    rows.finish("ada")
    mixing = torch.softmax(torch.randn(3, 3, generator=torch.Generator().manual_seed(1)), dim=1)
    rows.mix(mixing, 1)
    once = rows.bank.rows.clone()
    rows.mix(mixing, 1)  # asked for again, after its answer was lost
    assert torch.equal(rows.bank.rows, once)
    with pytest.raises(RunError, match="Rows of round 2 are to be mixed, but round 1 is on"):
        rows.mix(mixing, 2)


def test_a_client_starts_again_from_what_it_received() -> None:
    rows = fresh_rows()
    rows.begin_round(1)
    train(rows, "ada", 2)
    rows.finish("ada")
    trained = rows.row("ada").clone()
    rows.start("ada", 1)  # its update was lost, so it trains again
    train(rows, "ada", 2)
    rows.finish("ada")
    assert torch.equal(rows.row("ada"), trained)
    with pytest.raises(RunError, match="wants to train in round 2, but round 1 is on"):
        rows.start("ada", 2)


def test_parameters_are_those_in_training_until_it_is_finished() -> None:
    rows = fresh_rows()
    rows.begin_round(1)
    rows.keep("ada")
    train(rows, "ada", 1)
    training = rows.training("ada").row.values.detach().clone()
    assert torch.equal(rows.parameters("ada")["b"], training[6:])
    assert torch.equal(rows.parameters("ada", best=True)["b"], rows.row("ada")[6:])
    assert not torch.equal(rows.parameters("ada")["b"], rows.row("ada")[6:])


def test_what_does_not_belong_is_refused() -> None:
    rows = fresh_rows()
    with pytest.raises(RunError, match=r"no client 'adda' on this server.* 'ada'"):
        rows.training("adda")
    with pytest.raises(RunError, match="No round has begun"):
        rows.gram(updates=True)
    state = rows.state()
    del state["row/bob"]
    with pytest.raises(RunError, match="do not fit client bob"):
        fresh_rows().restore(state, 1)
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
    rows, alone = fresh_rows(), fresh_rows()
    for one in (rows, alone):
        one.begin_round(1)
        train(one, "ada", 2)
        one.finish("ada")
    train(rows, "bob", 3)
    rows.finish("bob")  # its answer is lost
    train(rows, "cyd", 1)  # and it is not done
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
        train(one, "bob", 1)
        one.finish("bob")
    assert torch.equal(rows.bank.rows, alone.bank.rows)


def test_only_clients_of_this_round_can_be_left_out() -> None:
    rows = fresh_rows()
    with pytest.raises(RunError, match="round 0 is on"):
        rows.leave_out(["bob"], 1)
    rows.begin_round(1)
    with pytest.raises(RunError, match="no client 'eve'"):
        rows.leave_out(["bob", "eve"], 1)
    assert rows.left_out == frozenset()
