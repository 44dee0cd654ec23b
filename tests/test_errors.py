"""What sentences are made of."""

from __future__ import annotations

import time

from pplr.errors import command, nearest


def test_the_nearest_name_is_offered_where_one_is_near():
    assert nearest("rouds", ["rounds", "patience"]) == " Did you mean 'rounds'?"
    assert nearest("xyz", ["rounds", "patience"]) == ""


def test_nobody_waits_for_a_search_among_millions_of_users():
    users = [f"user-{number}" for number in range(300_000)]
    started = time.perf_counter()
    assert nearest("user-x", users) == ""
    assert time.perf_counter() - started < 1.0


def test_a_command_can_be_copied_into_a_shell():
    assert command("pplr", "run", "my shop.toml") == "pplr run 'my shop.toml'"
