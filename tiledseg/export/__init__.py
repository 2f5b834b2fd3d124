"""Cells for other programs: GeoJSON as QuPath reads it, COCO with run lengths."""

from tiledseg.export.coco import write_coco
from tiledseg.export.geojson import write_geojson

__all__ = ["write_coco", "write_geojson"]
