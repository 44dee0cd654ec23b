"""The cells of a study: one configuration for every combination of choices."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Collection, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pplr.config import Config, parse_config
from pplr.config_overrides import Change, apply_changes
from pplr.config_schema import is_value, written
from pplr.errors import ConfigError, nearest
from pplr.evaluation.metrics import METRICS, metric_key
from pplr.study.settings import SEED, Changes, StudySettings

DIGEST_LENGTH = 12
"""Hexadecimal digits that name a cell: two of a million cells agree by chance once in a hundred studies."""

_CIRCUMSTANCES = ("name", "device", "threads")
"""Keys that say how a cell is called and computed, not what it is."""

_PATHS = (("data", "events"), ("data", "items"), ("backbone", "model"), ("backbone", "prompt"))
"""Section and key of what may name a file or folder."""

CERTIFICATES = "certificates"
"""Key of a placement that names a folder."""


@dataclass(frozen=True)
class Cell:
    """One run of a study.

    Attributes:
        labels: the choice along each axis, by axis.
        config: the configuration of the run.
        content: the same as values, paths as they were written; without what a cell is called and where it is computed.
        digest: names the configuration, whatever the cell is called and wherever its data lies.
    """

    labels: Mapping[str, str]
    config: Config
    content: Changes
    digest: str

    @property
    def folder(self) -> str:
        """Name of the cell's run folder."""
        return f"{self.config.name}-{self.digest}"

    @property
    def variant(self) -> tuple[str, ...]:
        """The labels but the seed's: the cells of one variant are averaged."""
        return tuple(chosen for axis, chosen in self.labels.items() if axis != SEED)

    @property
    def title(self) -> str:
        """The labels, as people read them."""
        return ", ".join(f"seed {chosen}" if axis == SEED else chosen for axis, chosen in self.labels.items())


def cells(
    study: StudySettings, data_folder: Path, only: Mapping[str, Collection[str]] = MappingProxyType({})
) -> tuple[Cell, ...]:
    """Return the cells of a study, the last axis changing fastest; relative paths start at `data_folder`.

    Args:
        only: the labels wanted of an axis; an axis that is not named matches all.

    Raises:
        ConfigError: a sentence for each thing that is wrong in any cell, each once.
    """
    found: list[Cell] = []
    problems: dict[str, None] = {}
    for choice in itertools.product(*(study.choices(axis) for axis in study.axes)):
        labels = {axis: name for axis, (name, _) in zip(study.axes, choice, strict=True)}
        if any(entry.items() <= labels.items() for entry in study.skip):
            continue
        if any(labels[axis] not in wanted for axis, wanted in only.items()):
            continue
        try:
            found.append(_cell(study, labels, [changes for _, changes in choice], data_folder))
        except ConfigError as problem:
            problems |= dict.fromkeys(f"{', '.join(labels.values())}: {sentence}" for sentence in problem.problems)
    if problems:
        raise ConfigError(problems)
    if not found and only:
        raise ConfigError("The study has no cell with what --only asks for: `skip` leaves them out.")
    if not found:
        raise ConfigError("The study has no cell: `skip` leaves all combinations out. Take an entry of it back.")
    return tuple(found)


def _cell(study: StudySettings, labels: Mapping[str, str], changes: list[Changes], data_folder: Path) -> Cell:
    values = deepcopy(study.base)
    if problems := apply_changes(values, [change for each in changes for change in _single(each)], Config):
        raise ConfigError(problems)
    values["name"] = _slug(labels.values())
    config = parse_config(values, data_folder)
    measured = [metric_key(metric, k) for metric in METRICS for k in config.evaluation.ks]
    if study.metric not in measured:
        raise ConfigError(
            f"The study's metric '{study.metric}' is not measured.{nearest(study.metric, measured)} There are: "
            f"{', '.join(measured)}. Name one of them, or set evaluation.ks."
        )
    return Cell(labels, config, content_of(config, values), digest_of(config, values))


def content_of(config: Config, values: Changes) -> Changes:
    """Return what makes a cell what it is; `values` are those that `config` was parsed from, with paths as written."""
    content = config.model_dump(mode="json")
    for key in _CIRCUMSTANCES:
        del content[key]
    for section, key in _PATHS:
        if key in values.get(section, {}):
            content[section][key] = values[section][key]
    if CERTIFICATES in content["placement"]:  # absolute, also where it was not written
        default = type(config.placement).model_fields[CERTIFICATES].default
        content["placement"][CERTIFICATES] = values.get("placement", {}).get(CERTIFICATES, default)
    return content


def digest_of(config: Config, values: Changes) -> str:
    """Return the digest of a configuration; files count as they are written, not where they were found."""
    content = json.dumps(content_of(config, values), sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:DIGEST_LENGTH]


def _single(changes: Changes, sections: tuple[str, ...] = ()) -> Iterator[Change]:
    """Return the changes key by key; a table that is no section, such as one of clients' names, is one value."""
    for key, value in changes.items():
        path = (*sections, key)
        if isinstance(value, Mapping) and not is_value(Config, path):
            yield from _single(value, path)
        else:
            yield Change(path, value, f"{'.'.join(path)} = {written(value)}")


def _slug(labels: Any) -> str:
    """Return labels as a run can be called."""
    return re.sub(r"[^\w.]+", "-", "-".join(labels)).strip("-.")[:60] or "cell"
