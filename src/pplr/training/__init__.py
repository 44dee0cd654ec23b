"""One client's local training. Knows models and data, nothing of federation."""

from pplr.training.local import LocalResult, Place, StepProgress, mean_loss, train_locally
from pplr.training.optimiser import Moments, Pull
from pplr.training.settings import TrainingSettings

__all__ = ["LocalResult", "Moments", "Place", "Pull", "StepProgress", "TrainingSettings", "mean_loss", "train_locally"]
