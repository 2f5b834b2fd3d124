"""The preparation of pixels, the same in training and prediction."""

from tiledseg.preprocess.prepare import (
    Prepared,
    Stepped,
    blurred,
    check_dtype,
    prepare,
    sharpen_margin,
    shrunk,
)
from tiledseg.preprocess.scale import (
    SAME_SIZE,
    ResizingSink,
    Sampling,
    sampling_of,
    scaled_length,
)
from tiledseg.preprocess.statistics import Limits, percentiles_of

__all__ = [
    "SAME_SIZE",
    "Limits",
    "Prepared",
    "ResizingSink",
    "Sampling",
    "Stepped",
    "blurred",
    "check_dtype",
    "percentiles_of",
    "prepare",
    "sampling_of",
    "scaled_length",
    "sharpen_margin",
    "shrunk",
]
