"""One client's local training. Knows models and data, nothing of federation."""

from pplr.training.local import LocalResult, Place, StepProgress, mean_loss, train_locally
from pplr.training.optimiser import Moments, Pull, fitting
from pplr.training.settings import TrainingSettings

__all__ = [
    "LocalResult",
    "Moments",
    "Place",
    "Pull",
    "StepProgress",
    "TrainingSettings",
    "fitting",
    "mean_loss",
    "train_locally",
]
