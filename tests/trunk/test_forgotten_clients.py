"""A client that has left a run for good: the server deletes what it has of it, and the others go on as they were."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from test_trunk_server import at, split
from trunk_process import certificates, serving

from pplr.config import Config
from pplr.errors import CheckpointError, RunError
from pplr.models.hub import resolve
from pplr.trunk.control import TrunkControl
from pplr.trunk.store import StateFolder
from pplr.wiring import reach_trunk
from trunk_state import clients_kept

TESTS = Path(__file__).parent.parent
EVERYBODY = ["shop-0", "shop-1", "shop-2"]
OTHERS = ["shop-0", "shop-2"]


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return certificates(tmp_path_factory.mktemp("pki") / "certificates")


@contextmanager
def control(config: Config, clients: list[str], forgotten: tuple[str, ...] = (), *, fresh: bool = False) -> Iterator:
    access = reach_trunk(config, resolve(config.backbone.model), clients)
    try:
        yield access.control(fresh=fresh, forgotten=forgotten)
    finally:
        access.close()


def generations(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("now-*")}


def two_rounds(coordinator: TrunkControl) -> torch.Tensor:
    """Mix the rows so that they differ, keep the state of two rounds, and return the Gram matrix."""
    mixing = torch.tensor([[0.0, 0.0, 0.5], [0.0, 2.0, 0.0], [3.0, 0.0, 0.0]])
    for number in (1, 2):
        coordinator.begin_round(number)
        coordinator.mix(mixing, number)
        coordinator.save(number)
    return coordinator.gram(updates=False)


def test_the_server_deletes_all_it_has_of_a_client_that_has_left(files: Path, tmp_path: Path, pki: Path) -> None:
    config, state = split(files, "encoder", pki), tmp_path / "server" / "state"
    with serving(config, tmp_path / "server", pki) as server:
        config = at(config, server.address)
        with control(config, EVERYBODY, fresh=True) as coordinator:
            before = two_rounds(coordinator)
        assert clients_kept(tmp_path / "server") == set(EVERYBODY)
        old = tmp_path / "kept"
        (rounds,) = {path.parent for path in (tmp_path / "server").rglob("round-0001") if path.is_dir()}
        shutil.copytree(rounds / "round-0001", old)
        with (
            control(config, OTHERS) as coordinator,
            pytest.raises(RunError, match="has rows of shop-0, shop-1, shop-2"),
        ):
            coordinator.gram(updates=False)
        with control(config, OTHERS, ("shop-1",)) as coordinator:
            after = coordinator.gram(updates=False)
        assert torch.equal(after, before[[0, 2]][:, [0, 2]]), "rows of the others are as they were"
        assert clients_kept(tmp_path / "server") == set(OTHERS), state
        server.kill()
        shutil.rmtree(rounds / "round-0001")
        shutil.copytree(old, rounds / "round-0001")  # as if it had been killed before all was deleted
        server.start()
        with control(config, OTHERS, ("shop-1",)) as coordinator:
            coordinator.restore(1)
            assert clients_kept(tmp_path / "server") == set(OTHERS)
            coordinator.begin_round(2)
            coordinator.mix(torch.eye(2), 2)
            coordinator.save(2)
        written = generations(tmp_path)
        with control(config, OTHERS, ("shop-1",)) as coordinator:
            coordinator.gram(updates=False)
        assert generations(tmp_path) == written, "steps of a round that goes on would be lost with it"
        access = reach_trunk(config, resolve(config.backbone.model), ["shop-1"])
        with pytest.raises(RunError, match=r"no client 'shop-1'\. Clients: shop-0, shop-2"):
            access.link("shop-1").start(1)
        access.close()


def test_a_server_that_is_killed_while_it_forgets_a_client_goes_on(tmp_path: Path) -> None:
    """Before every single change to its folder, with rows, best rows and a round in its midst."""
    script = Path(__file__).with_name("killed_forgetting.py")
    paths = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    subprocess.run([sys.executable, script, tmp_path], check=True, env=os.environ | {"PYTHONPATH": paths}, timeout=120)
    found = json.loads((tmp_path / "found.json").read_text())
    assert len(found) > 10
    assert [entry for entry in found if entry["wrong"]] == []


def test_a_damaged_state_is_said_in_a_sentence(tmp_path: Path) -> None:
    from killed_forgetting import OTHERS, owner, two_rounds

    rows = two_rounds(tmp_path)
    (tmp_path / "rounds" / "round-0001" / "state.safetensors").write_bytes(b"no tensors")
    rows.forget(["bob"])
    for use in (
        lambda: StateFolder(tmp_path).keeps_others_than(OTHERS),
        lambda: StateFolder(tmp_path).forget(owner(OTHERS), rows),
    ):
        with pytest.raises(CheckpointError, match=r"round-0001.* is damaged"):
            use()


def test_a_forgotten_client_cannot_take_a_step(tmp_path: Path) -> None:
    from killed_forgetting import two_rounds

    rows = two_rounds(tmp_path)
    rows.forget(["bob"])
    rows.begin_round(4)
    with pytest.raises(RunError, match="no client 'bob'"):
        rows.step("bob", 1, 0.1, 1.0)


def test_a_round_that_the_server_has_not_kept_is_told_as_a_checkpoint_that_is_missing(
    files: Path, tmp_path: Path, pki: Path
) -> None:
    """Across the wire too: a study then runs the cell anew, which it does for no other error of a server."""
    config = split(files, "encoder", pki)
    with serving(config, tmp_path / "server", pki) as server:
        config = at(config, server.address)
        with (
            control(config, EVERYBODY, fresh=True) as coordinator,
            pytest.raises(CheckpointError, match="has not kept the state after round 7"),
        ):
            coordinator.restore(7)
