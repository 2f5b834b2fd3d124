"""Scores of a finished map: whole px counted once, never averaged over batches.

Most scores are pure functions of a few numbers counted in an image. So they do not depend on how
the image was cut, and the scores of many images together come from the sum of their counts. Each
docstring states the score of empty masks: scores of agreement are 1 where both are empty.
"""

from tiledseg.metrics.bootstrap import Interval, bootstrap_interval
from tiledseg.metrics.boundary import (
    BoundaryCounts,
    OutlineDistances,
    boundary_f1,
    default_tolerance,
    hausdorff95,
    outline_distances,
)
from tiledseg.metrics.counts import (
    CURVE_THRESHOLDS,
    Counts,
    ProbabilityCounts,
    Reliability,
    calibration_error,
    count,
    count_classes,
    count_probabilities,
    counts_at_thresholds,
    reliability,
)
from tiledseg.metrics.instances import (
    IOU_THRESHOLDS,
    InstanceCounts,
    average_precision,
    components,
    match_instances,
    panoptic_quality,
    typical_px,
    without_small,
)
from tiledseg.metrics.loss import LossTally
from tiledseg.metrics.seams import (
    SEAM_DISTANCES,
    SeamErrors,
    SeamErrorTally,
    SeamRatio,
    SeamTally,
    seam_ratio,
)

__all__ = [
    "CURVE_THRESHOLDS",
    "IOU_THRESHOLDS",
    "SEAM_DISTANCES",
    "BoundaryCounts",
    "Counts",
    "InstanceCounts",
    "Interval",
    "LossTally",
    "OutlineDistances",
    "ProbabilityCounts",
    "Reliability",
    "SeamErrorTally",
    "SeamErrors",
    "SeamRatio",
    "SeamTally",
    "average_precision",
    "bootstrap_interval",
    "boundary_f1",
    "calibration_error",
    "components",
    "count",
    "count_classes",
    "count_probabilities",
    "counts_at_thresholds",
    "default_tolerance",
    "hausdorff95",
    "match_instances",
    "outline_distances",
    "panoptic_quality",
    "reliability",
    "seam_ratio",
    "typical_px",
    "without_small",
]
