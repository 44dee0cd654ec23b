"""Files and folders are whole, or as they were before."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pplr import storage
from pplr.errors import StorageError
from pplr.federation.events import Event, EventLog
from pplr.storage import bring_back, write_file, write_folder


class Killed(BaseException):
    """What ends a process here."""


def content(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


@pytest.mark.parametrize("last", [1, 2, 3])
def test_a_folder_is_the_old_or_the_new_one_wherever_the_process_ends(tmp_path, monkeypatch, last):
    """At its first change of a name, at its second one, and when the old folder is to be deleted."""
    path, done = tmp_path / "kept", 0
    write_folder(path, lambda new: (new / "file").write_text("old"))
    rename = Path.rename

    def until(self: Path, target: Path) -> Path:
        nonlocal done
        done += 1
        if done == last:
            raise Killed
        return rename(self, target)

    def no_more(folder: Path, **_: object) -> None:
        if folder.name.endswith(".before"):
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Path, "rename", until)
        patch.setattr("pplr.storage.shutil.rmtree", no_more)
        write_folder(path, lambda new: (new / "file").write_text("new"))
    bring_back(path)
    assert content(path) == {"file": "old" if last < 3 else "new"}
    assert not (tmp_path / ".kept.before").exists()
    write_folder(path, lambda new: (new / "file").write_text("newer"))
    assert content(path) == {"file": "newer"}
    assert [each.name for each in tmp_path.iterdir()] == ["kept"]


def test_what_cannot_be_filled_changes_nothing(tmp_path):
    def full(new: Path) -> None:
        raise OSError(28, "No space left on device")

    write_folder(tmp_path / "folder", lambda new: (new / "file").write_text("old"))
    write_file(tmp_path / "file", lambda new: new.write_text("old"))
    with pytest.raises(StorageError, match="No space left"):
        write_folder(tmp_path / "folder", full)
    with pytest.raises(StorageError, match="No space left"):
        write_file(tmp_path / "file", full)
    assert content(tmp_path / "folder") == {"file": "old"}
    assert (tmp_path / "file").read_text() == "old"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file", "folder"]


@pytest.mark.parametrize("write", [write_file, write_folder])
def test_a_new_name_is_on_the_disk_when_it_has_been_given(tmp_path, monkeypatch, write):
    """After a loss of power too: the folder that holds the name is flushed, and after it was given."""
    path, there = tmp_path / "kept", []
    sync = storage._sync

    def seen(flushed: Path) -> None:
        there.append((flushed, path.exists()))
        sync(flushed)

    monkeypatch.setattr(storage, "_sync", seen)
    write(path, lambda new: (new / "file" if new.is_dir() else new).write_text("new"))
    assert there[-1] == (tmp_path, True)


def test_nothing_in_an_events_data_takes_the_place_of_its_name_or_client(tmp_path):
    log = EventLog(tmp_path / "events.jsonl")
    log.open()
    log(Event("tested", 3, "shop-1", {"client": "shop-2", "event": "stopped", "round": 9, "loss": 1.5}))
    found = json.loads((tmp_path / "events.jsonl").read_text())
    assert (found["event"], found["client"], found["round"], found["loss"]) == ("tested", "shop-1", 3, 1.5)
