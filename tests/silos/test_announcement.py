"""Silos that do not fit together are told so before the first round, each in a sentence."""

from __future__ import annotations

import pytest

from pplr.config import parse_config
from pplr.errors import ConfigError
from pplr.silos.announcement import Announcement, agreed, settings_of


def config(tmp_path, **sections):
    return parse_config({"name": "shops", **sections}, tmp_path)


def announced(settings, name: str, **changes) -> Announcement:
    values = {
        "name": name, "version": "0.1.0", "examples": 5, "users": 3, "items": 9, "events": 30, "catalogue": "c",
        "model": "minilm", "weights": "w", "layout": "l", "parameters": 8, "shared": 6, "initial": "i",
        "select_by": "ndcg@10", "split": "leave-one-out", "settings": settings_of(settings), "device": "cpu", "notes": [],
    }  # fmt: skip
    return Announcement(**(values | changes))


def test_silos_that_fit_agree(tmp_path):
    ours = config(tmp_path)
    common = agreed(
        ours, [announced(ours, "b"), announced(ours, "a", examples=9, model="/models/minilm", device="cuda")]
    )
    assert common.by == "a"
    assert not common.differences(announced(ours, "c"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"catalogue": "d"}, "catalogue"), ({"weights": "v"}, "weights"), ({"version": "0.2.0"}, "version"),
        ({"layout": "k"}, "layout"), ({"initial": "j"}, "seed"), ({"select_by": "loss"}, "select_by"),
    ],
)  # fmt: skip
def test_what_differs_is_named_with_both_values(tmp_path, change, words):
    ours = config(tmp_path)
    with pytest.raises(ConfigError, match=words) as caught:
        agreed(ours, [announced(ours, "a"), announced(ours, "b", **change)])
    assert "of b" in str(caught.value) and next(iter(change.values())) in str(caught.value)


def test_other_settings_are_named(tmp_path):
    ours, theirs = config(tmp_path), config(tmp_path, training={"epochs": 7}, device="cpu", threads=2)
    with pytest.raises(ConfigError, match=r"training\.epochs is 7 at b and 1 at the coordinator") as caught:
        agreed(ours, [announced(ours, "a"), announced(theirs, "b")])
    assert len(caught.value.problems) == 1, "device and threads are each silo's own"
