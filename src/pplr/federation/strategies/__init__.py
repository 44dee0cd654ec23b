"""The strategies, by name. A new one is a file beside these and a line in `STRATEGIES`."""

from pplr.federation.strategies.base import Aggregator, Cohort, LocalObjective, Mixing, Strategy
from pplr.federation.strategies.centralised import Centralised
from pplr.federation.strategies.ditto import Ditto
from pplr.federation.strategies.fedadam import FedAdam
from pplr.federation.strategies.fedavg import FedAvg
from pplr.federation.strategies.fedper import FedPer
from pplr.federation.strategies.fedprox import FedProx
from pplr.federation.strategies.ffa import FrozenFactorA
from pplr.federation.strategies.local import Local
from pplr.federation.strategies.pplr import Pplr
from pplr.federation.strategies.product import Product
from pplr.federation.strategies.qfedavg import QFedAvg
from pplr.federation.strategies.robust import Robust

STRATEGIES: dict[str, type[Strategy]] = {
    "pplr": Pplr,
    "fedavg": FedAvg,
    "fedprox": FedProx,
    "ditto": Ditto,
    "fedper": FedPer,
    "fedadam": FedAdam,
    "qfedavg": QFedAvg,
    "robust": Robust,
    "product": Product,
    "ffa": FrozenFactorA,
    "local": Local,
    "centralised": Centralised,
}
"""Strategy name in the configuration -> its class."""

__all__ = [
    "STRATEGIES",
    "Aggregator",
    "Centralised",
    "Cohort",
    "Ditto",
    "FedAdam",
    "FedAvg",
    "FedPer",
    "FedProx",
    "FrozenFactorA",
    "Local",
    "LocalObjective",
    "Mixing",
    "Pplr",
    "Product",
    "QFedAvg",
    "Robust",
    "Strategy",
]
