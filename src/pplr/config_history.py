"""What configurations mean that earlier versions of pplr have written, when some keys were not there yet."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MARK = "run.json"
"""Marks a folder as a run's, and says what the run was made from; written before anything else."""
CONFIG = "config.toml"
"""The configuration of a run, in its folder: every key that there was."""


@dataclass(frozen=True)
class Earlier:
    """What was done before there was a key, where its default is to do otherwise.

    Attributes:
        section: the key's section.
        key: its name.
        value: the one that says what was done before.
        was: what `pplr` did, as the end of a sentence.
        matters: whether it makes a difference, in a configuration without the key.
    """

    section: str
    key: str
    value: str
    was: str
    matters: Callable[[Mapping[str, Any]], bool] = lambda _: True

    @property
    def name(self) -> str:
        """The key with its section."""
        return f"{self.section}.{self.key}"

    def __str__(self) -> str:
        """Return the line, and where it is written."""
        return f'{self.key} = "{self.value}" below [{self.section}]'


def _section(content: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return a section; one that is damaged is empty, and others say so."""
    section = content.get(name)
    return section if isinstance(section, Mapping) else {}


def _adds_up(content: Mapping[str, Any]) -> bool:
    backbone, strategy = _section(content, "backbone"), _section(content, "strategy")
    kinds = backbone.get("kind", "sequence"), backbone.get("residual", "shared"), strategy.get("kind", "pplr")
    return kinds == ("sequence", "shared", "pplr")


def _hears_of_items(content: Mapping[str, Any]) -> bool:
    backbone, strategy = _section(content, "backbone"), _section(content, "strategy")
    shared = "shared" in (backbone.get("bias", "shared"), backbone.get("residual", "shared"))
    return backbone.get("kind", "sequence") == "sequence" and shared and strategy.get("kind", "pplr") != "local"


def _tells_new_items(content: Mapping[str, Any]) -> bool:
    backbone = _section(content, "backbone")
    return bool(
        backbone.get("kind", "sequence") != "generative" and backbone.get("contrast", "catalogue") != "catalogue"
    )


def _may_be_absent(content: Mapping[str, Any]) -> bool:
    """Return whether clients are left out of rounds by design, or by failing, as silos do."""
    federation, strategy = _section(content, "federation"), _section(content, "strategy")
    some = federation.get("participation", 1) != 1 or bool(federation.get("silos"))
    return some and strategy.get("kind", "pplr") == "pplr"


_EARLIER = (
    Earlier(
        "backbone",
        "contrast",
        "catalogue",
        "trained among the whole catalogue; among known items now",
        _hears_of_items,
    ),
    Earlier(
        "backbone",
        "new_bias",
        "zero",
        "left the bias of new items at 0; they get the mean of the others now",
        _tells_new_items,
    ),
    Earlier(
        "strategy", "items", "mean", "averaged what clients learn of items; it adds up and is stretched now", _adds_up
    ),
    Earlier(
        "strategy",
        "absent",
        "keep",
        "left the row of a client that did not train in a round as it was; it takes from those who did now",
        _may_be_absent,
    ),
    Earlier("training", "moments", "fresh", "started optimisers afresh in every round; they go on now"),
)


def of_run(path: Path) -> bool:
    """Return whether a configuration is one that a run has written, into its folder."""
    return path.name == CONFIG and (path.parent / MARK).is_file()


def unsaid(content: Mapping[str, Any]) -> list[Earlier]:
    """Return what a configuration, as a run has written it, leaves unsaid because there was nothing to say then."""
    return [one for one in _EARLIER if one.key not in _section(content, one.section) and one.matters(content)]


def as_meant(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration of a run with what it left unsaid; a run writes every key there is."""
    filled = dict(content)
    for one in unsaid(content):
        if isinstance(filled.setdefault(one.section, {}), Mapping):
            filled[one.section] = {**filled[one.section], one.key: one.value}
    return filled
