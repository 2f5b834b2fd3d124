"""Training: from pairs of image and mask to a segmenter, in a run folder that is never used twice."""

from tiledseg.train._checkpoint import Checkpoint, latest_checkpoint
from tiledseg.train._trainer import Trainer, TrainingResult

__all__ = ["Checkpoint", "Trainer", "TrainingResult", "latest_checkpoint"]
