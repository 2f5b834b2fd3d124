"""The connected areas of a map of labels, with their outlines."""

from tiledseg.objects.outlines import Cell, cells_of

__all__ = ["Cell", "cells_of"]
