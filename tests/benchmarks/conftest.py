from __future__ import annotations

import importlib

import pytest

from benchmark_scripts import SCRIPTS


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    return importlib.import_module
