"""One process at a time trains in a folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pplr
from pplr import run_folder
from pplr.errors import RunError, StorageError
from whole_runs import configuration

HOLD = """
import sys
from pathlib import Path
from pplr import run_folder
with run_folder.held(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_folder_in_use_is_refused_until_its_process_is_gone(tmp_path):
    folder = tmp_path / "run"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(RunError, match="Another process is training"), run_folder.held(folder):
        pass
    holder.kill()  # as after SIGKILL: nothing was released on purpose
    holder.communicate()
    with run_folder.held(folder):
        pass


def test_a_folder_that_cannot_be_made_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError), run_folder.held(tmp_path / "file" / "run"):
        pass


def test_a_place_for_no_folder_is_refused_before_anything_is_loaded(files, tmp_path, monkeypatch):
    (tmp_path / "notes.txt").write_text("mine")
    told = []
    with pytest.raises(
        RunError, match=r"notes\.txt is a file, so .*deep/run cannot be a folder\. Choose another --out"
    ):
        pplr.run(configuration(files), tmp_path / "notes.txt" / "deep" / "run", observer=told.append)
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)  # root may write everywhere
    with pytest.raises(
        StorageError, match=rf"this user may not write into {re.escape(str(tmp_path))}\. Choose another"
    ):
        pplr.run(configuration(files), tmp_path / "new" / "run", observer=told.append)
    assert told == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt"]
