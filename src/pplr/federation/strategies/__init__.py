"""The strategies, by name. A new one is a file beside these and a line in `STRATEGIES`."""

from pplr.federation.strategies.base import Cohort, Mixing, Strategy
from pplr.federation.strategies.centralised import Centralised
from pplr.federation.strategies.fedavg import FedAvg
from pplr.federation.strategies.local import Local
from pplr.federation.strategies.pplr import Pplr

STRATEGIES: dict[str, type[Strategy]] = {
    "pplr": Pplr,
    "fedavg": FedAvg,
    "local": Local,
    "centralised": Centralised,
}
"""Strategy name in the configuration -> its class."""

__all__ = ["STRATEGIES", "Centralised", "Cohort", "FedAvg", "Local", "Mixing", "Pplr", "Strategy"]
