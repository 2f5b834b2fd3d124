"""Cells for other programs: GeoJSON for QuPath, COCO instances."""

from tiledseg.export.coco import write_coco
from tiledseg.export.geojson import write_geojson

__all__ = ["write_coco", "write_geojson"]
