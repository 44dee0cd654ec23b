"""Too little memory is a sentence with a remedy, wherever it shows."""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np
import pytest
import torch

import pplr
from pplr.errors import ConfigError
from pplr.memory import enough_memory, give_back_freed
from whole_runs import configuration

HUGE = 2**58
"""Numbers that no machine has room for."""


@pytest.mark.parametrize("allocate", [torch.empty, np.empty, lambda count: bytearray(8 * count)])
def test_a_failed_allocation_is_a_sentence(allocate):
    with (
        pytest.raises(ConfigError, match=r"^The memory is not enough: [^\[]+Lower training\.batch_tokens"),
        enough_memory(),
    ):
        allocate(HUGE)


def test_a_gpu_that_is_full_is_one_as_well():
    with pytest.raises(ConfigError, match=r"CUDA out of memory\. Tried to allocate 2 GiB\. Lower"), enough_memory():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nOf the allocated memory ...")


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match="shapes"), enough_memory():
        raise RuntimeError("shapes cannot be multiplied")


def test_a_run_that_needs_too_much_ends_in_the_sentence(files, tmp_path):
    def greedy(event):
        if event.name == "round_started":
            torch.empty(HUGE)

    with pytest.raises(ConfigError, match="The memory is not enough"):
        pplr.run(configuration(files), tmp_path / "run", observer=greedy)


def _resident() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no such function")
def test_what_was_freed_between_tensors_that_live_is_given_back():
    size, count = 50_000, 1000
    every = [torch.ones(size // 4) for _ in range(count)]
    living = every[::10]
    del every
    before = _resident()
    give_back_freed()
    assert before - _resident() > 0.7 * size * count
    assert all(bool((tensor == 1).all()) for tensor in living)
