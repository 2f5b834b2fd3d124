"""An evaluation as one page that a person likes to read."""

from tiledseg.report._page import write_report
from tiledseg.report._pictures import Picture, PictureRow, picture_row

__all__ = ["Picture", "PictureRow", "picture_row", "write_report"]
