"""Silos of a simulation on Ray: workers answer for whichever silo a message is for, from one data set."""

from __future__ import annotations

import json
import os
from functools import lru_cache
from pathlib import Path

from pplr.config import load_config
from pplr.federation.events import ignore
from pplr.silos.parcel import Parcel
from pplr.silos.work import SiloWork
from pplr.wiring import Parts, prepare

SIMULATION = "PPLR_SIMULATION"
"""Environment variable with a JSON file for Ray's workers: `config`, `folder`, and `silos`, the names."""
KEPT_SILOS = 64
"""Silos that a worker keeps ready; they share data and model."""


def answered(parcel: Parcel, number: int) -> Parcel:
    """Return the answer of silo `number` to a parcel."""
    return _silo(os.environ[SIMULATION], number).answer(parcel)


@lru_cache(KEPT_SILOS)
def _silo(path: str, number: int) -> SiloWork:
    plan = json.loads(Path(path).read_text(encoding="utf-8"))
    name = sorted(plan["silos"])[number]
    return SiloWork(_parts(plan["config"]), name, Path(plan["folder"]) / name)


@lru_cache(1)
def _parts(config: str) -> Parts:
    return prepare(load_config(config), ignore)
