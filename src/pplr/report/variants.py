"""Which runs are one variant: those whose configurations differ in nothing but the seed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from pplr.errors import ConfigError, RunError
from pplr.report.comparison import Variant
from pplr.report.folder import read_configuration

_NOT_COMPARED = {"name", "seed", "device", "threads"}


def by_configuration(folders: Sequence[Path]) -> list[Variant]:
    """Return the variants that runs make up, in the order of their first runs, each called as its first run.

    Raises:
        RunError: a folder has no readable configuration.
    """
    found: dict[str, list[Path]] = {}
    names: dict[str, str] = {}
    for folder in folders:
        try:
            config = read_configuration(folder)
        except ConfigError as problem:
            raise RunError(f"The run in {folder} cannot be compared: {problem}") from problem
        key = json.dumps(config.model_dump(mode="json", exclude=_NOT_COMPARED), sort_keys=True)
        found.setdefault(key, []).append(folder)
        names.setdefault(key, config.name)
    twice = len(set(names.values())) < len(names)
    return [Variant(f"{names[key]} ({one[0]})" if twice else names[key], tuple(one)) for key, one in found.items()]
