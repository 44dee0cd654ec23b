"""From one configuration to a folder per party, ready to be copied to its machine (docs/silos.md)."""

from pplr.deployment.folders import write_deployment
from pplr.deployment.plan import Deployment, planned

__all__ = ["Deployment", "planned", "write_deployment"]
