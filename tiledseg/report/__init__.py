"""Pages, sheets and charts that a person likes to look at."""

from tiledseg.report._chart import write_split_chart
from tiledseg.report._folder import write_evaluation
from tiledseg.report._page import write_report
from tiledseg.report._pictures import Picture, PictureRow, picture_row
from tiledseg.report._sheet import contact_sheet, mask_row
from tiledseg.report._worst import WorstCases

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
