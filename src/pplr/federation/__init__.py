"""Rounds over clients. Knows rows and numbers; data, models and training only through `Client`."""

from pplr.federation.client import Client, Measuring
from pplr.federation.coordinator import Coordinator
from pplr.federation.settings import FederationSettings

__all__ = ["Client", "Coordinator", "FederationSettings", "Measuring"]
