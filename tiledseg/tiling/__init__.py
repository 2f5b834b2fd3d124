"""Tiles of an image, and one map from the outputs of tiles."""

from tiledseg.tiling._block import stitch_block, touching_tiles
from tiledseg.tiling._enlarge import EnlargingSink
from tiledseg.tiling._panels import tile_order
from tiledseg.tiling._reduce import ReducingSink, Reduction, labels_of, reduced_dtype, reduced_shape
from tiledseg.tiling.grid import AxisGrid, Box, Tile, TileGrid, check_multiple
from tiledseg.tiling.receptive_field import UNKNOWN, Axis, Grow, ReceptiveField, Rule, Slide, Step, Windows
from tiledseg.tiling.stitcher import Stitcher
from tiledseg.tiling.tiler import TileBatch, Tiler, default_tiling, padded_places
from tiledseg.tiling.windows import AxisWindow, axis_windows

__all__ = [
    "UNKNOWN",
    "Axis",
    "AxisGrid",
    "AxisWindow",
    "Box",
    "EnlargingSink",
    "Grow",
    "ReceptiveField",
    "ReducingSink",
    "Reduction",
    "Rule",
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
    "default_tiling",
    "labels_of",
    "padded_places",
    "reduced_dtype",
    "reduced_shape",
    "stitch_block",
    "tile_order",
    "touching_tiles",
]
