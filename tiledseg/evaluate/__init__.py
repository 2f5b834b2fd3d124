"""Scores of finished maps at full resolution: whole images, never tiles.

Light: nothing here loads Keras, unless the segmenter does.
"""

from tiledseg.evaluate._evaluator import Evaluator, ScoredImage
from tiledseg.evaluate._result import EvaluationResult, FailedPair
from tiledseg.evaluate._scores import ImageScores, score_map

__all__ = ["EvaluationResult", "Evaluator", "FailedPair", "ImageScores", "ScoredImage", "score_map"]
