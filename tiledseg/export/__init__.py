"""Cells for other programs: GeoJSON as QuPath reads it, COCO with run lengths."""

from tiledseg.export.exports import write_coco, write_geojson

__all__ = ["write_coco", "write_geojson"]
