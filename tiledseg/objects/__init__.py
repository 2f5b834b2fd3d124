"""The objects of a map: labels, measurements, outlines."""

from tiledseg.objects.labels import Objects, label_objects
from tiledseg.objects.outlines import Cell, cells_of

__all__ = ["Cell", "Objects", "cells_of", "label_objects"]
