"""Objects for other programs: GeoJSON for QuPath, COCO instances, ImageJ ROI."""

from tiledseg.export.batches import ObjectFile, Style, labels_of_result, pass_on, with_runs
from tiledseg.export.coco import CocoWriter, Segmentation, write_coco
from tiledseg.export.geojson import GeoJsonWriter, write_geojson
from tiledseg.export.roi import RoiWriter, write_roi

__all__ = [
    "CocoWriter",
    "GeoJsonWriter",
    "ObjectFile",
    "RoiWriter",
    "Segmentation",
    "Style",
    "labels_of_result",
    "pass_on",
    "with_runs",
    "write_coco",
    "write_geojson",
    "write_roi",
]
