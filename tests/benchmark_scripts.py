"""The scripts below benchmarks/, for tests."""

from __future__ import annotations

import json
from pathlib import Path

import torch

SCRIPTS = Path(__file__).parents[1] / "benchmarks"


def result_of(module, output, *arguments):
    module.main([*arguments, "--output", str(output), "--threads", "1"])
    result = json.loads(output.read_text(encoding="utf-8"))
    assert result["threads"] == 1
    assert result["versions"]["torch"] == torch.__version__
    assert str(Path.home()) not in output.read_text(encoding="utf-8")
    return result
