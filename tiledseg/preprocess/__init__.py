"""The one preparation of pixels, the same in training and prediction."""

from tiledseg.preprocess._percentiles import Limits, percentiles_of
from tiledseg.preprocess._prepare import Prepared, prepare, shrunk
from tiledseg.preprocess._sharpen import reach_of
from tiledseg.preprocess._shrink import scaled_length

__all__ = ["Limits", "Prepared", "percentiles_of", "prepare", "reach_of", "scaled_length", "shrunk"]
