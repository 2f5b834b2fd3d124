"""Scores of finished maps at full resolution: whole images, never tiles.

Light: nothing here loads Keras; only a segmenter does.
"""

from tiledseg.evaluate.compare import Comparison, Difference, check_classes, compare, side_by_side
from tiledseg.evaluate.evaluator import Evaluator, ScoredImage
from tiledseg.evaluate.map_files import classes_of_map, find_maps, read_map
from tiledseg.evaluate.result import EvaluationResult
from tiledseg.evaluate.score_map import score_map
from tiledseg.evaluate.scores import FailedPair, ImageScores, PrecisionCost, ThresholdCurve
from tiledseg.evaluate.tables import decision_of

__all__ = [
    "Comparison",
    "Difference",
    "EvaluationResult",
    "Evaluator",
    "FailedPair",
    "ImageScores",
    "PrecisionCost",
    "ScoredImage",
    "ThresholdCurve",
    "check_classes",
    "classes_of_map",
    "compare",
    "decision_of",
    "find_maps",
    "read_map",
    "score_map",
    "side_by_side",
]
