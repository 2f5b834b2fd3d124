"""Cutting an image into tiles, and stitching the outputs of tiles into one map."""

from tiledseg.tiling.grid import (
    AxisGrid,
    AxisWindow,
    Box,
    Tile,
    TileGrid,
    axis_windows,
    check_multiple,
    drawing_of,
)
from tiledseg.tiling.panels import Panels, stitch_block, touching_tiles
from tiledseg.tiling.receptive_field import (
    UNKNOWN,
    Axis,
    Grow,
    ReceptiveField,
    Rule,
    Sample,
    Slide,
    Step,
    Windows,
)
from tiledseg.tiling.stitcher import (
    Output,
    OutputSink,
    Stitcher,
    check_threshold,
    labels_of,
    map_dtype,
    map_shape,
)
from tiledseg.tiling.tiler import TileBatch, Tiler, default_tiling, padded_places

__all__ = [
    "UNKNOWN",
    "Axis",
    "AxisGrid",
    "AxisWindow",
    "Box",
    "Grow",
    "Output",
    "OutputSink",
    "Panels",
    "ReceptiveField",
    "Rule",
    "Sample",
    "Slide",
    "Step",
    "Stitcher",
    "Tile",
    "TileBatch",
    "TileGrid",
    "Tiler",
    "Windows",
    "axis_windows",
    "check_multiple",
    "check_threshold",
    "default_tiling",
    "drawing_of",
    "labels_of",
    "map_dtype",
    "map_shape",
    "padded_places",
    "stitch_block",
    "touching_tiles",
]
