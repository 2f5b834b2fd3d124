"""The preparation of pixels, the same in training and prediction."""

from tiledseg.preprocess.percentiles import Limits, percentiles_of
from tiledseg.preprocess.prepare import Prepared, prepare, shrunk
from tiledseg.preprocess.scale import EnlargingSink, blurred, scaled_length, sharpen_margin

__all__ = [
    "EnlargingSink",
    "Limits",
    "Prepared",
    "blurred",
    "percentiles_of",
    "prepare",
    "scaled_length",
    "sharpen_margin",
    "shrunk",
]
