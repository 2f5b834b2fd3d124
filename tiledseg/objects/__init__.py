"""From a map of labels to its single areas."""

from tiledseg.objects.outlines import Cell, cells_of

__all__ = ["Cell", "cells_of"]
