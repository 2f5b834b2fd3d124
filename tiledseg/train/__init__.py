"""Training: from pairs of image and mask to a segmenter, in a run folder that is never used twice."""

from tiledseg.train._checkpoint import Checkpoint, latest_checkpoint
from tiledseg.train._trainer import Trainer, TrainingResult
from tiledseg.train._trials import OverfitResult, RateResult, find_learning_rate, overfit_one_batch

__all__ = [
    "Checkpoint",
    "OverfitResult",
    "RateResult",
    "Trainer",
    "TrainingResult",
    "find_learning_rate",
    "latest_checkpoint",
    "overfit_one_batch",
]
