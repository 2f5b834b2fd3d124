"""The way of one image: source, preprocess, Tiler, Predictor, Stitcher, sink."""

from tiledseg.predict._files import predict_files
from tiledseg.predict._outcomes import FileOutcome, FilesResult
from tiledseg.predict._plan import Plan, plan
from tiledseg.predict._seams import Seam, SeamReport
from tiledseg.predict._tiled import tiled_predict

__all__ = [
    "FileOutcome",
    "FilesResult",
    "Plan",
    "Seam",
    "SeamReport",
    "plan",
    "predict_files",
    "tiled_predict",
]
