"""Fixtures of the report's tests; what they are made of is in made_up_run.py."""

from __future__ import annotations

import pytest
from made_up_run import write_run


@pytest.fixture
def build_run(tmp_path):
    """Return a function that writes a made-up run below the test's folder: name of the folder, settings -> path."""

    def build(folder="run", **settings):
        return write_run(tmp_path / folder, **settings)

    return build
