"""A disk that is full: what was done stays, what failed says so, and goes on once there is room again."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import pplr
from pplr.errors import RunError, StorageError
from pplr.federation.events import Event, ignore
from pplr.federation.messages import TrainTask
from pplr.silos import codec
from pplr.silos.parcel import Parcel
from pplr.silos.work import SiloWork
from pplr.wiring import prepare
from whole_runs import assert_same_result, configuration

KILOBYTES = 16_384
ASKED = codec.Asked("run", 10**9)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, of 16 megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", f"size={KILOBYTES}k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path) -> Path:
    """Fill the disk to the last byte, and return the file that does."""
    path = disk / "full"
    with pytest.raises(OSError, match="No space left"), path.open("wb", buffering=0) as file:
        while file.write(bytes(1024)):
            pass
    return path


def silo(files: Path, folder: Path) -> SiloWork:
    own = {"kind": "sequence", "model": str(files / "bert"), "width": 16, "positions": 8, "bias": "private"}
    return SiloWork(prepare(configuration(files, backbone=own), ignore, silo="shop-1"), "shop-1", folder)


def trained(asked: SiloWork, number: int, row: torch.Tensor) -> torch.Tensor:
    task = TrainTask("shop-1", number, 0.0, row)
    return codec.update_of(asked.answer(codec.train_parcel(task, ASKED))).row


def test_a_silo_with_a_full_disk_says_so_and_takes_part_again(files: Path, tmp_path: Path, disk: Path) -> None:
    here, undisturbed = silo(files, disk / "state"), silo(files, tmp_path / "state")
    _, row = codec.first_row(here.answer(Parcel("initial", {})))
    row = trained(here, 1, row)
    expected = [trained(undisturbed, 1, codec.first_row(undisturbed.answer(Parcel("initial", {})))[1])]
    expected.append(trained(undisturbed, 2, expected[0]))
    assert torch.equal(row, expected[0])
    full = fill(disk)
    with pytest.raises(RunError, match=r"No space left on device"):
        trained(here, 2, row)
    again = silo(files, disk / "state")  # also where its supervisor has started it again meanwhile
    full.unlink()
    for one in (here, again):
        assert torch.equal(trained(one, 2, row), expected[1])


def test_a_run_on_a_full_disk_stops_and_goes_on(files: Path, finished, disk: Path) -> None:
    filling: list[Path] = []

    def fill_later(event: Event) -> None:
        if event.name == "round_started" and event.round == 2 and not filling:
            filling.append(fill(disk))

    with pytest.raises(StorageError, match=r"No space left on device"):
        pplr.run(configuration(files), disk / "run", observer=fill_later)
    filling[0].unlink()
    pplr.run(configuration(files), disk / "run", resume=True)
    assert_same_result(disk / "run", finished.folder)
