"""The preparation of pixels, the same in training and prediction."""

from tiledseg.preprocess.percentiles import Limits, percentiles_of
from tiledseg.preprocess.prepare import Prepared, prepare, shrunk
from tiledseg.preprocess.scale import (
    SAME_SIZE,
    ResizingSink,
    Sampling,
    sampling_of,
    scaled_length,
)
from tiledseg.preprocess.sharpen import blurred, sharpen_margin

__all__ = [
    "SAME_SIZE",
    "Limits",
    "Prepared",
    "ResizingSink",
    "Sampling",
    "blurred",
    "percentiles_of",
    "prepare",
    "sampling_of",
    "scaled_length",
    "sharpen_margin",
    "shrunk",
]
