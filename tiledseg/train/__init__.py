"""Training: from pairs of image and mask to a segmenter, each run in a new folder."""

from tiledseg.train.checkpoint import latest_checkpoint
from tiledseg.train.lr_finder import OverfitResult, RateResult, find_learning_rate, overfit_one_batch
from tiledseg.train.trainer import Trainer, TrainingResult

__all__ = [
    "OverfitResult",
    "RateResult",
    "Trainer",
    "TrainingResult",
    "find_learning_rate",
    "latest_checkpoint",
    "overfit_one_batch",
]
