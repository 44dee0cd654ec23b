"""What a client counts on its own data, mixed with what its model says: nothing of it ever leaves the client.

Fusion of scores after the model (late fusion), by a logarithmic opinion pool (Genest and Zidek, Combining Probability
Distributions, Statistical Science 1986) whose weights are learned on the client's validation events.
"""

from pplr.fusion.own import Fusion, Learned
from pplr.fusion.scorer import MODEL, NEW, FusedScorer, Given, Weights
from pplr.fusion.settings import FusionSettings

__all__ = ["MODEL", "NEW", "FusedScorer", "Fusion", "FusionSettings", "Given", "Learned", "Weights"]
