"""A SuperNode that cannot be started is said and tried again: the silo does not only look alive."""

from __future__ import annotations

import logging
import time
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from pplr.address import Address
from pplr.errors import ConfigError
from pplr.silos import node
from pplr.silos.processes import Security


@pytest.mark.parametrize(
    "problem", [ConfigError("flower-supernode is not installed."), OSError("no log can be written")]
)
def test_what_keeps_a_node_from_starting_is_said_and_tried_again(tmp_path, monkeypatch, caplog, problem):
    tried = []

    @contextmanager
    def started(*_: object):
        tried.append(time.monotonic())
        if len(tried) < 3:
            raise problem
        yield SimpleNamespace(pid=1, poll=lambda: None, returncode=None)

    monkeypatch.setattr(node, "_await", lambda *_: None)
    monkeypatch.setattr(node, "started", started)
    monkeypatch.setattr(node, "RESTART_SECONDS", 0.01)
    caplog.set_level(logging.INFO, "pplr.silo")
    with node.kept_node("shop-1", Address.parse("127.0.0.1:9"), Security(None), tmp_path / "node.log", {}):
        limit = time.monotonic() + 10
        while len(tried) < 3 and time.monotonic() < limit:
            time.sleep(0.01)
    said = [record.getMessage() for record in caplog.records]
    assert len([text for text in said if "cannot be started" in text and str(problem) in text]) == 2
    assert said[-1].startswith("SuperNode of shop-1 started")
