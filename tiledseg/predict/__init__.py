"""The path of one image: source, preprocess, Tiler, network, Stitcher, sink; and of many."""

from tiledseg.predict.diagnostics import Seam, SeamReport, SeamWatch, check_exact, seam_report
from tiledseg.predict.files import FileOutcome, FilesResult, predict_files
from tiledseg.predict.plan import Plan, make_plan
from tiledseg.predict.prediction import plan, run_plan, tiled_predict
from tiledseg.predict.products import needs_whole
from tiledseg.predict.segmentation import Segmentation, segment

__all__ = [
    "FileOutcome",
    "FilesResult",
    "Plan",
    "Seam",
    "SeamReport",
    "SeamWatch",
    "Segmentation",
    "check_exact",
    "make_plan",
    "needs_whole",
    "plan",
    "predict_files",
    "run_plan",
    "seam_report",
    "segment",
    "tiled_predict",
]
