"""A run that was interrupted ends with the very same bits as one that was not."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import tiny
from pplr.errors import CheckpointError
from pplr.federation.checkpoints import CheckpointStore
from pplr.federation.strategies import Ditto, FedAdam, FedPer, FedProx, Pplr, QFedAvg, Robust
from pplr.training import TrainingSettings

WITH_STATE = [
    FedAdam(),
    QFedAvg(q=1, lipschitz=0.1),
    Ditto(),
    FedPer(names=("projection",)),
    FedProx(mu=0.5),
    Robust(),
]
"""Strategies whose clients or coordinator remember more than rows, and some that remember nothing."""
FRESH = tiny.TRAINING.model_copy(update={"moments": "fresh"})
SCRIPT = Path(__file__).parent / "killable_run.py"


def essence(coordinator, members):
    """Everything of a finished run but the time that it took."""
    history = [record.model_dump(exclude={"seconds"}) for record in coordinator.progress.history]
    for record in history:
        for client in record["clients"].values():
            client.pop("seconds")
    kept = [client.state() for client in members]
    tensors = [coordinator.bank.rows, *(own[name] for own in kept for name in sorted(own))]
    return history, [client.best_score for client in members], tensors


def assert_same(one, other):
    assert one[0] == other[0]
    assert one[1] == other[1]
    assert all(torch.equal(a, b) for a, b in zip(one[2], other[2], strict=True))


class Interrupted(Exception):
    """Stands for whatever ends a process."""


def interrupted_at(event_name, number):
    def observe(event):
        if event.name == event_name and event.round == number:
            raise Interrupted

    return observe


def resumed_the_same(folder, where, **options):
    """Run a federation, and again interrupted at an event and resumed, which must be the same in every bit.

    Return the first one, its clients, and after how many rounds the other went on.
    """
    whole, members = tiny.federation(folder / "whole", **options)
    whole.run()
    broken, _ = tiny.federation(folder / "broken", observer=interrupted_at(*where), **options)
    with pytest.raises(Interrupted):
        broken.run()
    again, others = tiny.federation(folder / "broken", **options)
    again.resume()
    done = len(again.progress.history)
    again.run()
    assert_same(essence(again, others), essence(whole, members))
    return whole, members, done


@pytest.mark.parametrize(
    "where", [("client_trained", 2), ("client_validated", 3), ("round_finished", 3), ("checkpoint", 3)]
)
@pytest.mark.parametrize("strategy", ["pplr", "local", *WITH_STATE], ids=repr)
def test_resume_in_the_same_process_is_bit_identical(tmp_path, where, strategy):
    *_, done = resumed_the_same(tmp_path, where, strategy=strategy, rounds=4, participation=3)
    assert done == (3 if where[0] == "checkpoint" else where[1] - 1)


@pytest.mark.parametrize("strategy", ["pplr", "ditto"])
def test_moments_that_clients_keep_are_those_of_a_run_that_was_not_interrupted(tmp_path, strategy):
    options = {"strategy": strategy, "rounds": 4, "participation": 3}
    whole, members, _ = resumed_the_same(tmp_path, ("client_trained", 3), **options)
    rows = {"shared", "personal"} if strategy == "ditto" else {"shared"}
    assert all(client.moments.keys() == rows for client in members)
    fresh, _ = tiny.federation(None, **options, training=FRESH)
    fresh.run()
    assert not torch.equal(fresh.bank.rows, whole.bank.rows)


@pytest.mark.parametrize("epochs", [0.25, 0.6])
def test_a_run_of_parts_of_epochs_is_resumed_where_its_clients_were(tmp_path, epochs):
    """Also with clients that are not drawn in every round, whose next part is that of the round."""
    training = TrainingSettings(epochs=epochs, learning_rate=0.02, batch_tokens=40, warmup_steps=2)
    options = {"rounds": 5, "patience": 5, "participation": 3, "training": training}
    whole, *_ = resumed_the_same(tmp_path, ("client_trained", 4), **options)
    full, _ = tiny.federation(None, rounds=1, patience=1)
    every = full.run().history[0].clients
    parts = [
        one.tokens / every[name].tokens
        for record in whole.progress.history
        for name, one in record.clients.items()
        if one.trained
    ]
    assert len(parts) == 15
    assert sum(parts) / 15 == pytest.approx(epochs, abs=0.15)


def test_the_best_row_of_another_model_is_refused():
    _, (client, *_) = tiny.federation(None)
    size = client._backbone.layout.size
    for name in ("best", "personal"):
        client.restore(client.state() | {name: torch.zeros(size)})
        with pytest.raises(CheckpointError, match="belongs to another model"):
            client.restore(client.state() | {name: torch.zeros(3)})


def test_moments_of_another_model_are_refused(tmp_path):
    _, (client, *_) = tiny.federation(None)
    size = client._backbone.layout.size
    whole = {"exp_avg": torch.zeros(size), "exp_avg_sq": torch.zeros(size), "step": torch.tensor(3.0)}
    client.restore(client.state() | {f"moments.shared.{name}": value for name, value in whole.items()})
    assert client.moments.keys() == {"shared"}
    for damaged in (whole | {"exp_avg": torch.zeros(3)}, {"exp_avg": torch.zeros(size)}):
        state = client.state() | {f"moments.shared.{name}": value for name, value in damaged.items()}
        for name in whole.keys() - damaged.keys():
            del state[f"moments.shared.{name}"]
        with pytest.raises(CheckpointError, match="belongs to another model"):
            client.restore(state)


def test_a_client_that_starts_afresh_remembers_no_moments(tmp_path):
    coordinator, members = tiny.federation(tmp_path)
    coordinator.run()
    _, others = tiny.federation(None, training=FRESH)
    for member, other in zip(members, others, strict=True):
        other.restore(member.state())
        assert member.moments
        assert not other.moments


def test_patience_goes_on_counting_where_it_was(tmp_path):
    """Steps far too large: the first round stays the best, and the run ends as many rounds after it as it may wait."""
    restless = FRESH.model_copy(update={"learning_rate": 0.5, "schedule": "constant"})
    options = {"rounds": 9, "patience": 3, "training": restless, "strategy": Pplr(items="mean")}
    whole, _ = tiny.federation(tmp_path / "whole", **options)
    expected = whole.run()
    last = len(expected.history)
    assert last == expected.best_round + 3 < 9, "the run must end by patience for this test to mean anything"
    broken, _ = tiny.federation(tmp_path / "broken", observer=interrupted_at("checkpoint", last - 1), **options)
    with pytest.raises(Interrupted):
        broken.run()
    again, _ = tiny.federation(tmp_path / "broken", **options)
    again.resume()
    assert (again.progress.best_round, again.progress.best_score) == (expected.best_round, expected.best_score)
    assert len(again.run().history) == last


def test_a_server_that_remembers_finds_its_state_damaged_or_of_another_strategy(tmp_path):
    coordinator, _ = tiny.federation(tmp_path, strategy="fedadam", rounds=2)
    coordinator.run()
    with pytest.raises(CheckpointError, match="another strategy's server"):
        resumed(tmp_path, strategy="robust")
    path = tmp_path / "round-0002" / "server.safetensors"
    path.write_bytes(path.read_bytes()[:-4] + b"\1\2\3\4")
    with pytest.raises(CheckpointError, match=r"server\.safetensors is not what was written"):
        resumed(tmp_path, strategy="fedadam")


@pytest.mark.slow
def test_sigkill_at_random_moments_changes_no_bit(tmp_path):
    seed = random.SystemRandom().randrange(2**31)
    command = [sys.executable, str(SCRIPT), str(tmp_path), str(seed), "8"]
    environment = dict(os.environ, OMP_NUM_THREADS="1")
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 3, f"too few processes were killed for this test to mean anything (seed {seed})"
    expected, found = (load_file(tmp_path / name / "result.safetensors") for name in ("whole", "broken"))
    assert set(expected) == set(found)
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == [], f"seed {seed}"


@pytest.fixture
def finished(tmp_path):
    coordinator, _ = tiny.federation(tmp_path / "checkpoints", rounds=3)
    coordinator.run()
    return tmp_path / "checkpoints"


def resumed(folder, **options):
    coordinator, _ = tiny.federation(folder, **({"rounds": 3} | options))
    coordinator.resume()
    return coordinator


def test_the_newest_two_checkpoints_are_kept(finished):
    assert sorted(path.name for path in finished.iterdir()) == ["round-0002", "round-0003"]


@pytest.mark.parametrize("name", ["bank.safetensors", "clients.safetensors", "progress.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "missing"])
def test_damage_is_found_and_the_way_back_is_named(finished, name, damage):
    path = finished / "round-0003" / name
    content = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        content[len(content) // 2] ^= 255
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"round-0003 is damaged .*goes on after round 2"):
        resumed(finished)
    shutil.rmtree(finished / "round-0003")
    assert len(resumed(finished).progress.history) == 2


def test_an_older_one_that_is_damaged_is_the_one_to_delete(finished):
    (finished / "round-0002" / "bank.safetensors").write_bytes(b"")
    assert len(resumed(finished).progress.history) == 3
    with pytest.raises(CheckpointError, match=r"round-0002 is damaged .*goes on after round 3"):
        list(CheckpointStore(finished).all())


def test_the_only_checkpoint_damaged_says_so(finished):
    shutil.rmtree(finished / "round-0002")
    (finished / "round-0003" / "manifest.json").write_text('{"version": 1, "sha256": []}')
    with pytest.raises(CheckpointError, match="the only one"):
        resumed(finished)


def test_a_checkpoint_of_another_version_is_refused(finished):
    path = finished / "round-0003" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 99}))
    with pytest.raises(CheckpointError, match="version 99"):
        resumed(finished)


def test_no_checkpoint_is_an_error(tmp_path):
    with pytest.raises(CheckpointError, match="no round was finished"):
        resumed(tmp_path / "nothing")
    (tmp_path / ".round-0001.partial").mkdir()
    with pytest.raises(CheckpointError, match="no round was finished"):
        resumed(tmp_path)
    with pytest.raises(CheckpointError, match="keeps no checkpoints"):
        resumed(None)


@pytest.mark.parametrize(
    "change", [{"clients": 3}, {"backbone_settings": {"width": 16}}, {"backbone_settings": {"bias": "shared"}}]
)
def test_a_checkpoint_of_another_run_is_refused(finished, change):
    with pytest.raises(CheckpointError, match="changed"):
        resumed(finished, **change)


def test_a_private_part_of_another_size_is_refused(tmp_path):
    coordinator, _ = tiny.federation(tmp_path, rounds=1, backbone_settings={"bias": "private"})
    coordinator.run()
    with pytest.raises(CheckpointError, match="changed"):
        resumed(tmp_path, backbone_settings={"bias": "none"})


DISK_FULL = """
import resource, signal, sys
from pathlib import Path
import torch
from pplr.errors import StorageError
from pplr.federation.checkpoints import Checkpoint, CheckpointStore
store = CheckpointStore(Path(sys.argv[1]))
store.save(Checkpoint(1, torch.zeros(2, 10), ("a", "b"), {}, {}))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    store.save(Checkpoint(2, torch.zeros(2, 100_000), ("a", "b"), {}, {}))
except StorageError as error:
    print(error)
else:
    sys.exit("no error")
"""


def test_a_full_disk_is_one_sentence_and_costs_nothing(tmp_path):
    done = subprocess.run([sys.executable, "-c", DISK_FULL, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "cannot be written" in done.stdout
    assert "Make room on the disk" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["round-0001"]
    assert CheckpointStore(tmp_path).newest().round == 1
