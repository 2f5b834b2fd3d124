"""Reports of an evaluation or a dataset: HTML pages, contact sheets and charts."""

from tiledseg.report.curves import write_split_chart
from tiledseg.report.page import write_evaluation, write_report
from tiledseg.report.pictures import Picture, PictureRow, WorstCases, picture_row
from tiledseg.report.sheet import contact_sheet, mask_row

__all__ = [
    "Picture",
    "PictureRow",
    "WorstCases",
    "contact_sheet",
    "mask_row",
    "picture_row",
    "write_evaluation",
    "write_report",
    "write_split_chart",
]
