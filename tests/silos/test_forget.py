"""A silo that has left for good: its row goes, the others go on as if it had been away, and the log tells of it."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

import tiny
from pplr.errors import CheckpointError, ConfigError, RunError
from pplr.federation.audit_log import AuditLog, verify
from pplr.federation.checkpoints import CheckpointStore
from pplr.federation.engines import InProcessEngine
from pplr.run_folder import FORGOTTEN, claim, held
from pplr.silos.coordinate import coordinate
from pplr.silos.forget import forget, forgotten
from pplr.silos.plan import Plan
from whole_runs import configuration

OPTIONS = {"rounds": 4, "patience": 4, "strategy": "fedadam"}


@pytest.fixture
def stopped(files, tmp_path):
    """A run over silos that was stopped after two rounds, with four clients."""
    folder = tmp_path / "run"
    claim(folder, configuration(files), {"items": "i", "model": "m", "parameters": "p"})

    class Stopped(Exception):
        pass

    def stop(event):
        if (event.name, event.round) == ("checkpoint", 2):
            raise Stopped

    coordinator, _ = tiny.federation(folder / "checkpoints", observer=stop, audit=AuditLog(folder), **OPTIONS)
    with pytest.raises(Stopped):
        coordinator.run()
    return folder


def without(folder, silo):
    coordinator, members = tiny.federation(folder / "checkpoints", audit=AuditLog(folder), **OPTIONS)
    stay = [member for member in members if member.info.name != silo]
    names = [member.info.name for member in stay]
    coordinator._engine = InProcessEngine(stay)
    coordinator.bank = type(coordinator.bank)(names, coordinator.bank.rows[: len(names)])
    return coordinator


def test_a_forgotten_silo_is_gone_and_the_others_go_on(stopped):
    before = CheckpointStore(stopped / "checkpoints").newest()
    with pytest.raises(CheckpointError, match="holds 4 clients"):
        without(stopped, "client-1").resume()
    assert forget(stopped, "client-1") == 3
    assert forgotten(stopped) == ("client-1",)
    for kept in CheckpointStore(stopped / "checkpoints").all():
        assert "client-1" not in kept.clients and kept.rows.shape[0] == 3
        assert not [name for name in kept.engine if name.startswith("client-1/")]
    coordinator = without(stopped, "client-1")
    coordinator.resume()
    assert torch.equal(coordinator.bank.rows, before.rows[[0, 2, 3]])
    history = coordinator.run().history
    assert [len(record.clients) for record in history] == [4, 4, 3, 3]
    found = verify(stopped, CheckpointStore(stopped / "checkpoints").audited())
    assert found.rounds == (1, 2, 3, 4)
    kinds = [json.loads(line)["kind"] for line in (stopped / "audit.jsonl").read_text().splitlines()]
    assert kinds == ["begun", "round", "round", "forgotten", "resumed", "round", "round", "ended"]


def test_what_cannot_be_forgotten_is_said(files, stopped, tmp_path, monkeypatch):
    with pytest.raises(RunError, match=r"no silo 'client-11'.*Did you mean 'client-1'"):
        forget(stopped, "client-11")
    monkeypatch.setattr("pplr.silos.forget.LETTING_GO", 0.1)
    with held(stopped), pytest.raises(RunError, match="Another process"):
        forget(stopped, "client-1")
    for name in ("client-0", "client-1", "client-2"):
        forget(stopped, name)
    with pytest.raises(RunError, match="the only silo"):
        forget(stopped, "client-3")
    assert forgotten(stopped) == ("client-0", "client-1", "client-2")
    (stopped / FORGOTTEN).write_text("{")
    with pytest.raises(RunError, match="damaged"):
        forgotten(stopped)
    claim(tmp_path / "alone", configuration(files), {"training events": "e"})
    with pytest.raises(RunError, match="no run over silos"):
        forget(tmp_path / "alone", "client-0")


def test_a_new_run_in_the_folder_has_all_silos_again(files, stopped):
    forget(stopped, "client-1")
    shutil.rmtree(stopped / "checkpoints")
    claim(stopped, configuration(files), {"items": "i"})
    assert forgotten(stopped) == ()


def test_a_forgetting_that_was_killed_between_two_names_can_be_done_again(stopped):
    """The old checkpoint has left its name, and the new one has not taken it."""
    checkpoints = stopped / "checkpoints"
    newest = f"round-{CheckpointStore(checkpoints).newest().round:04d}"
    (checkpoints / newest).rename(checkpoints / f".{newest}.before")
    assert forget(stopped, "client-1") == 3
    assert CheckpointStore(checkpoints).newest().clients == ("client-0", "client-2", "client-3")
    assert not list(checkpoints.glob(".*"))


def test_settings_of_silos_that_are_not_there_are_refused_before_anything_is_begun(tmp_path):
    config = tmp_path / "run.toml"
    config.write_text("[federation.joins]\nshop-2 = 2\nshop-9 = 2\n", encoding="utf-8")
    plan = Plan(
        str(tmp_path),
        str(config),
        str(tmp_path / "run"),
        ("shop-1", "shop-2"),
        resume=False,
        overwrite=False,
        meet_seconds=1.0,
    )
    with pytest.raises(ConfigError, match=r"names the client 'shop-9'.*Clients: shop-1, shop-2"):
        coordinate(plan, None)
    assert not (tmp_path / "run").exists()
