"""The objects of a map: labels, measurements, outlines."""

from tiledseg.objects.collect import Instances, ObjectBatch, check_out
from tiledseg.objects.labels import ObjectsSink, label_objects
from tiledseg.objects.measure import Table, stretched
from tiledseg.objects.outlines import Corners, Outlines, Shapes, bands_of, simplified
from tiledseg.objects.table import Objects, read_table
from tiledseg.objects.tiled import tiled_objects

__all__ = [
    "Corners",
    "Instances",
    "ObjectBatch",
    "Objects",
    "ObjectsSink",
    "Outlines",
    "Shapes",
    "Table",
    "bands_of",
    "check_out",
    "label_objects",
    "read_table",
    "simplified",
    "stretched",
    "tiled_objects",
]
