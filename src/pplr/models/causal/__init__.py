"""Causal language models: what the generative backbone asks of them, and one of transformers in one piece."""

from pplr.models.causal.interface import CausalModel, Reading, Sight
from pplr.models.causal.whole import WholeCausal, as_causal

__all__ = ["CausalModel", "Reading", "Sight", "WholeCausal", "as_causal"]
