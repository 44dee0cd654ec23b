"""Federated fine-tuning of language-model recommenders: personalised, balanced, and without sharing interaction data.

import pplr

result = pplr.run(pplr.load_config("pplr.toml"))
recommender = pplr.Recommender.load(result.folder)
recommender.recommend("client-0", history=["Alien (1979)", "Blade Runner (1982)"])
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from pplr import errors
from pplr.errors import PplrError

if TYPE_CHECKING:
    from pplr.config import Config, load_config
    from pplr.recommender import Recommender
    from pplr.runner import RunResult, evaluate_run, run

__version__ = "0.1.0"
__all__ = [
    "Config",
    "PplrError",
    "Recommender",
    "RunResult",
    "__version__",
    "errors",
    "evaluate_run",
    "load_config",
    "run",
]

for _variable, _value in {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "false",
}.items():
    os.environ.setdefault(_variable, _value)

_HOMES = {
    "Config": "pplr.config",
    "load_config": "pplr.config",
    "Recommender": "pplr.recommender",
    "RunResult": "pplr.runner",
    "evaluate_run": "pplr.runner",
    "run": "pplr.runner",
}


def __getattr__(name: str) -> Any:
    """Import public names when they are first used: `pplr --help` needs no torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'pplr' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
