"""The objects of a map: labels, measurements, outlines."""

from tiledseg.objects.collect import ObjectBatch
from tiledseg.objects.labels import Objects, ObjectsSink, label_objects
from tiledseg.objects.outlines import Cell, cells_of

__all__ = ["Cell", "ObjectBatch", "Objects", "ObjectsSink", "cells_of", "label_objects"]
