"""A silo goes back with its coordinator, and keeps what a coordinator may go back to."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pplr.errors import CheckpointError
from pplr.silos.state import KEPT_ROUNDS, TRAINED, VALIDATED, SiloState


def value(state) -> float | None:
    return None if state is None else float(state["x"])


def moment_state(number: float):
    return {"x": torch.tensor([number])}


def test_the_newest_state_before_a_moment(tmp_path):
    state = SiloState(tmp_path / "silo")
    assert state.before((1, TRAINED)) is None
    state.save((1, TRAINED), moment_state(1.0))
    state.save((1, VALIDATED), moment_state(1.5))
    assert value(state.before((2, TRAINED))) == 1.5
    assert value(state.before((1, VALIDATED))) == 1.0
    assert value(state.before((9, TRAINED))) == 1.5
    assert state.before((1, TRAINED)) is None


@given(rounds=st.lists(st.integers(1, 30), min_size=1, max_size=12, unique=True).map(sorted), back=st.integers(1, 2))
def test_a_round_that_is_repeated_starts_where_it_started_before(tmp_path_factory, rounds, back):
    """The silo may have missed rounds; the coordinator goes back by up to two of those that it took part in."""
    state = SiloState(tmp_path_factory.mktemp("state"))
    for number in rounds:
        state.save((number, TRAINED), moment_state(number))
        state.save((number, VALIDATED), moment_state(number + 0.5))
    if len(rounds) <= back:
        return
    again = rounds[-back]
    assert value(state.before((again, TRAINED))) == rounds[-back - 1] + 0.5
    state.save((again, TRAINED), moment_state(-1.0))
    assert value(state.before((99, TRAINED))) == -1.0, "what was after it was another future"
    assert len({path.name[:10] for path in state._folder.iterdir()}) <= KEPT_ROUNDS


def test_a_damaged_state_says_what_to_do(tmp_path):
    state = SiloState(tmp_path)
    state.save((1, VALIDATED), moment_state(1.0))
    (tmp_path / "round-0001-validated.safetensors").write_bytes(b"rubbish")
    with pytest.raises(CheckpointError, match="Delete it"):
        state.before((2, TRAINED))
