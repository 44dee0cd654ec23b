"""Time, advice, and the batches that both rest on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cut_models import LAYERS, saved
from pplr.audit.measured import Recovery
from pplr.errors import ConfigError
from pplr.models.hub import Kind
from pplr.models.lora import AdapterSettings
from pplr.planning import Circumstances, Plan, Reading, Speeds, advice, make_plan, outline
from pplr.planning.batch import training_batch
from pplr.planning.estimate import SHARE, StepTime, step_time
from pplr.planning.wire import Traffic
from pplr.trunk.codecs import CODECS

SPEEDS = Speeds(client=1e9, server=1e10, bits=8e6, round_trip=0.05)
READING = Reading(prompt=30, common=5, title=4, batch_tokens=136)
seconds = st.floats(0, 100)


def _plan(folder: Path, **changes: object) -> Plan:
    saved("llama", folder)
    circumstances = Circumstances(READING, CODECS["bfloat16"], 1, 1, 1, SPEEDS)
    return make_plan("m", outline(folder, Kind.DECODER, AdapterSettings(rank=2)), replace(circumstances, **changes))


def test_one_piece_waits_for_everything() -> None:
    time = step_time(0.7e9, 1.4e10, Traffic(600_000, 400_000, 2), SPEEDS, 1)
    assert time.total == pytest.approx(0.7 / SHARE + 1.4 / SHARE + 1.0 + 0.1)


@given(seconds, seconds, seconds, st.integers(1, 8))
def test_pieces_hide_all_but_the_slowest(client: float, server: float, wire: float, pieces: int) -> None:
    one, several = (StepTime(client, server, wire, 0.0, n).total for n in (1, pieces))
    assert max(client, server, wire) - 1e-9 <= several <= one + 1e-9
    assert StepTime(client, server, wire, 0.0, 10**9).total == pytest.approx(max(client, server, wire), abs=1e-5)


@given(st.integers(2, 200), st.integers(1, 20), st.integers(1, 4000), st.integers(1, 8), st.booleans())
def test_batches_keep_within_their_tokens(prompt: int, title: int, tokens: int, pieces: int, decoder: bool) -> None:
    batch = training_batch(Reading(prompt, min(10, prompt - 1), title, 4, tokens, pieces), decoder=decoder)
    length = batch.start + batch.length
    assert length == prompt + (title if decoder else 0)
    assert batch.rows * length <= max(tokens, length)
    assert (batch.rows + 1) * length > tokens
    assert sum(batch.pieces) == batch.rows
    assert len(batch.pieces) <= pieces
    assert min(batch.pieces) >= 1


def test_a_plan_has_every_k_and_more_of_everything_at_home(tmp_path: Path) -> None:
    plan = _plan(tmp_path)
    assert [choice.bottom for choice in plan.choices] == list(range(LAYERS - 1))
    for less, more in zip(plan.choices, plan.choices[1:], strict=False):
        assert less.client_parameters < more.client_parameters
        assert less.client_flops < more.client_flops
        assert less.server_memory.total > more.server_memory.total
        assert less.step == more.step
    for choice in plan.choices:
        assert choice.client_parameters + choice.server_parameters == plan.whole.parameters
    with pytest.raises(ConfigError, match=r"placement\.top"):
        _plan(tmp_path, top=LAYERS)


def test_the_largest_that_fits_is_advised_with_its_price(tmp_path: Path) -> None:
    sizes = [choice.client_memory.total for choice in _plan(tmp_path).choices]
    text = advice(_plan(tmp_path, device_memory=sizes[2]))
    assert text.startswith("Take k = 2, the largest that fits into")
    text = advice(_plan(tmp_path, device_memory=sizes[3] - 1))
    assert text.startswith("Take k = 2,")
    text = advice(_plan(tmp_path, device_memory=sizes[3] + 1))
    assert text.startswith("Take k = 3, the largest there is")
    assert "where k = 2 takes" in text
    assert "placement.kind = 'whole'" not in text
    assert "placement.kind = 'whole'" in advice(_plan(tmp_path, device_memory=10**12))


def test_what_to_do_where_none_fits(tmp_path: Path) -> None:
    plan = _plan(tmp_path)
    least = plan.choices[0].client_memory
    text = advice(_plan(tmp_path, device_memory=least.total - 1))
    assert text.startswith("No k fits into")
    assert "--batch-tokens" in text
    assert "Choose a smaller model" in advice(_plan(tmp_path, device_memory=least.weights))


def test_measured_risk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {1: Recovery("inverter", 0.81, 0.4, 0.7)}
    monkeypatch.setattr("pplr.planning.plan.best_recovery", lambda model, bottom: known.get(bottom))
    sizes = [choice.client_memory.total for choice in _plan(tmp_path).choices]
    text = advice(_plan(tmp_path, device_memory=sizes[1]))
    assert "Behind k = 1 the best attack (inverter) recovers 81% of the tokens" in text
    assert "nearest measured risk is that of k = 1" in advice(_plan(tmp_path, device_memory=sizes[2]))
    assert "has not been measured" not in advice(_plan(tmp_path))
