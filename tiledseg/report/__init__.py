"""Pages, sheets and charts that a person likes to look at."""

from tiledseg.report._chart import write_split_chart
from tiledseg.report._page import write_report
from tiledseg.report._pictures import Picture, PictureRow, picture_row
from tiledseg.report._sheet import contact_sheet, mask_row

__all__ = [
    "Picture",
    "PictureRow",
    "contact_sheet",
    "mask_row",
    "picture_row",
    "write_report",
    "write_split_chart",
]
