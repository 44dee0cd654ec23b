"""Engines: how tasks reach clients."""

from pplr.federation.engines.base import Engine
from pplr.federation.engines.in_process import InProcessEngine

__all__ = ["Engine", "InProcessEngine"]
