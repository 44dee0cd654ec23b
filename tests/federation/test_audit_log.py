"""Whatever is done to an audit log is found, and an interrupted run goes on with the chain that it began."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tiny
from pplr.errors import RunError, StorageError
from pplr.federation.audit_log import AUDIT_HEAD, AUDIT_LOG, AuditLog, Head, matrix_entry, verify
from pplr.federation.checkpoints import CheckpointStore
from pplr.federation.history import MOST_CLIENTS


def entries(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / AUDIT_LOG).read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A finished run's log and head."""
    folder = tmp_path_factory.mktemp("run")
    coordinator, _ = tiny.federation(folder / "checkpoints", rounds=3, audit=AuditLog(folder))
    coordinator.run()
    return folder


def test_the_log_says_what_was_sent_admitted_and_mixed(tmp_path):
    coordinator, _ = tiny.federation(None, rounds=2, audit=AuditLog(tmp_path))
    first = hashlib.sha256(coordinator.bank.rows[0].numpy().tobytes()).hexdigest()
    history = coordinator.run().history
    begun, one, two, ended = entries(tmp_path)
    assert (begun["kind"], begun["strategy"]["kind"], ended["kind"]) == ("begun", "pplr", "ended")
    assert set(one["sent"].values()) == {first}
    assert two["sent"] == one["mixed"], "what is mixed is what is sent next"
    last = {n: hashlib.sha256(coordinator.bank.row(n).numpy().tobytes()).hexdigest() for n in coordinator.bank.clients}
    assert two["mixed"] == last
    assert one["admitted"].keys() == last.keys() and not set(one["admitted"].values()) & {first}
    for record, entry in zip(history, (one, two), strict=True):
        assert entry["mixing"]["matrix"] == record.mixing
        assert entry["mixing"]["sha256"] == hashlib.sha256(np.array(record.mixing).tobytes()).hexdigest()


def test_a_log_as_it_was_written_passes(written):
    found = verify(written, CheckpointStore(written / "checkpoints").audited())
    assert (found.head.entries, found.rounds, found.repeated) == (5, (1, 2, 3), ())
    assert len(CheckpointStore(written / "checkpoints").audited()) == 2
    assert verify(written, noted=found.head.digest) == found
    assert matrix_entry(None) is None
    assert "matrix" not in matrix_entry(np.eye(MOST_CLIENTS + 1))


@st.composite
def mutation(draw, content: bytes) -> bytes:
    """Another file: bytes edited, put in or taken out, lines removed, moved, repeated or put in."""
    lines = content.splitlines(keepends=True)
    way = draw(st.sampled_from(["byte", "insert", "delete", "cut", "line", "swap", "repeat", "forge", "other end"]))
    place = draw(st.integers(0, len(content) - 1))
    one, other = draw(st.integers(0, len(lines) - 1)), draw(st.integers(0, len(lines) - 1))
    if way == "byte":
        return content[:place] + bytes([draw(st.integers(0, 255))]) + content[place + 1 :]
    if way == "insert":
        return content[:place] + draw(st.binary(min_size=1, max_size=5)) + content[place:]
    if way == "delete":
        return content[:place] + content[place + draw(st.integers(1, 60)) :]
    if way == "cut":
        return content[:place]
    if way == "line":
        return b"".join(lines[:one] + lines[one + 1 :])
    if way == "swap":
        lines[one], lines[other] = lines[other], lines[one]
        return b"".join(lines)
    if way == "repeat":
        return b"".join([*lines[:one], lines[other], *lines[one:]])
    if way == "forge":  # a new entry with a chain that fits
        digest = hashlib.sha256(lines[-1].rstrip(b"\n")).hexdigest()
        return content + json.dumps({"number": len(lines) + 1, "previous": digest, "kind": "round"}).encode() + b"\n"
    return content + draw(st.sampled_from([b"\n", b" ", b"{}\n", b"\r\n"]))


@settings(max_examples=600, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_change_of_the_file_is_found(written, tmp_path, data):
    content = (written / AUDIT_LOG).read_bytes()
    changed = data.draw(mutation(content))
    if changed == content:
        return
    (tmp_path / AUDIT_LOG).write_bytes(changed)
    (tmp_path / AUDIT_HEAD).write_bytes((written / AUDIT_HEAD).read_bytes())
    with pytest.raises(RunError, match=r"[Ee]ntry \d+|[Ee]ntries \d+"):
        verify(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda lines: [lines[0], lines[1].replace(b'"round": 1', b'"round": 7'), *lines[2:]], "Entry 3 .* entry 2"),
        (lambda lines: [lines[0], *lines[2:]], "Entry 2 .*missing.*entry 3"),
        (lambda lines: [lines[0], lines[2], lines[1], *lines[3:]], "Entry 2 .*moved.*entry 3"),
        (lambda lines: lines[:-2], "ends with entry 3.*entries 4 to 5 are missing"),
        (lambda lines: lines[:-1], "ends with entry 4.*entry 5 is missing"),
        (lambda lines: [*lines[:-1], lines[-1].replace(b"ended", b"endec")], "Entry 5 .*changed"),
        (lambda lines: [*lines[:-1], lines[-1][:-1]], "Entry 5 .*cut off"),
        (lambda lines: [*lines, b"{}\n"], "Entry 6 "),
    ],
)
def test_the_sentence_names_the_entry(written, tmp_path, change, words):
    lines = (written / AUDIT_LOG).read_bytes().splitlines(keepends=True)
    (tmp_path / AUDIT_LOG).write_bytes(b"".join(change(lines)))
    (tmp_path / AUDIT_HEAD).write_bytes((written / AUDIT_HEAD).read_bytes())
    with pytest.raises(RunError, match=words):
        verify(tmp_path)


def test_a_log_that_was_written_anew_is_told_by_what_others_know(written, tmp_path):
    other = AuditLog(tmp_path)
    for number in range(5):
        other.append("round", {"round": number})
    assert verify(tmp_path).head.entries == 5
    with pytest.raises(RunError, match="the checkpoint of round"):
        verify(tmp_path, CheckpointStore(written / "checkpoints").audited())
    with pytest.raises(RunError, match="No entry of the audit log has the digest"):
        verify(tmp_path, noted=Head.read(written).digest)
    (tmp_path / AUDIT_HEAD).unlink()
    with pytest.raises(RunError, match="nobody can tell"):
        verify(tmp_path)
    with pytest.raises(RunError, match="cannot be read"):
        verify(tmp_path / "nowhere")


class Killed(Exception):
    """Stands for SIGKILL at this place."""


@pytest.mark.parametrize(
    ("where", "repeated"),
    [(("client_trained", 2), ()), (("audited", 2), (2,)), (("round_finished", 2), (2,)), (("checkpoint", 2), ())],
)
def test_a_resumed_run_goes_on_with_the_chain_and_tells_a_repeated_round_apart(tmp_path, where, repeated):
    def kill(event):
        if (event.name, event.round) == where:
            raise Killed

    def made(observer=lambda event: None):
        return tiny.federation(tmp_path / "checkpoints", rounds=3, audit=AuditLog(tmp_path), observer=observer)[0]

    with pytest.raises(Killed):
        made(kill).run()
    before = (tmp_path / AUDIT_LOG).read_bytes()
    again = made()
    again.resume()
    again.run()
    assert (tmp_path / AUDIT_LOG).read_bytes().startswith(before), "nothing that was written is written over"
    found = verify(tmp_path, CheckpointStore(tmp_path / "checkpoints").audited())
    assert (found.rounds, found.repeated) == ((1, 2, 3), repeated)
    rounds = [entry for entry in entries(tmp_path) if entry["kind"] == "round"]
    by_round = {}
    for entry in rounds:
        by_round.setdefault(entry["round"], []).append((entry["sent"], entry["admitted"], entry["mixed"]))
    assert all(one == each[0] for each in by_round.values() for one in each), "on a CPU it is the same round once more"


def test_a_line_that_was_not_finished_goes_when_the_run_goes_on(tmp_path):
    log = AuditLog(tmp_path)
    log.open(0, None, {})
    log.append("round", {"round": 1})
    known = log.head
    log.append("round", {"round": 2})
    lines = (tmp_path / AUDIT_LOG).read_bytes()
    (tmp_path / AUDIT_LOG).write_bytes(lines + b'{"number": 4, "prev')
    again = AuditLog(tmp_path)
    again.open(1, known, {})
    again.append("round", {"round": 2})
    assert (tmp_path / AUDIT_LOG).read_bytes().startswith(lines + b'{"number": 4, "previous"')
    assert verify(tmp_path).repeated == (2,)


def test_the_head_may_be_one_entry_behind_after_a_kill_and_never_more(tmp_path):
    log = AuditLog(tmp_path)
    log.open(0, None, {})
    behind = (tmp_path / AUDIT_HEAD).read_bytes()
    log.append("round", {"round": 1})
    (tmp_path / AUDIT_HEAD).write_bytes(behind)
    with pytest.raises(RunError, match=r"Entry 2 .*--resume settles"):
        verify(tmp_path)
    again = AuditLog(tmp_path)
    again.open(0, None, {})
    assert verify(tmp_path).head.entries == 3


@pytest.mark.parametrize("damage", ["edited", "gone", "shorter"])
def test_a_run_does_not_go_on_over_a_changed_log(written, tmp_path, damage):
    import shutil

    shutil.copytree(written, tmp_path / "run")
    path = tmp_path / "run" / AUDIT_LOG
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(
            content.replace(b"pplr", b"pplR") if damage == "edited" else content[: content.index(b"\n") + 1]
        )
    coordinator, _ = tiny.federation(tmp_path / "run" / "checkpoints", rounds=3, audit=AuditLog(tmp_path / "run"))
    coordinator.resume()
    with pytest.raises(RunError, match="audit log"):
        coordinator.run()


def test_a_disk_that_is_full_leaves_whole_lines(tmp_path, monkeypatch):
    log = AuditLog(tmp_path)
    log.open(0, None, {})
    before = (tmp_path / AUDIT_LOG).read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pplr.storage.os.fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        log.append("round", {"round": 1})
    assert (tmp_path / AUDIT_LOG).read_bytes() == before


def test_rows_of_any_type_have_a_digest():
    from pplr.federation.intake import row_digest

    row = torch.arange(4.0)
    assert row_digest(row) == hashlib.sha256(row.numpy().astype("<f4").tobytes()).hexdigest()
    assert row_digest(row.to(torch.bfloat16)) != row_digest(row)
    assert row_digest(torch.zeros(2, 0))
