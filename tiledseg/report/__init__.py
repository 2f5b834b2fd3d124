"""Reports of an evaluation or a dataset: HTML pages, contact sheets and charts."""

from tiledseg.plots import Picture, PictureRow, contact_sheet
from tiledseg.report.page import write_evaluation, write_report
from tiledseg.report.pictures import Triples, WorstCases, mask_row, picture_row, write_split_chart

__all__ = [
    "Picture",
    "PictureRow",
    "Triples",
    "WorstCases",
    "contact_sheet",
    "mask_row",
    "picture_row",
    "write_evaluation",
    "write_report",
    "write_split_chart",
]
