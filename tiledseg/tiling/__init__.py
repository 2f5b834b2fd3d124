"""Tiles of an image, and one map from the outputs of tiles."""

from tiledseg.tiling._block import stitch_block, touching_tiles
from tiledseg.tiling._enlarge import EnlargingSink
from tiledseg.tiling._panels import tile_order
from tiledseg.tiling._reduce import ReducingSink, Reduction, labels_of, reduced_dtype, reduced_shape
from tiledseg.tiling.grid import AxisGrid, Box, Tile, TileGrid, check_multiple
from tiledseg.tiling.stitcher import Stitcher
from tiledseg.tiling.tiler import TileBatch, Tiler
from tiledseg.tiling.windows import AxisWindow, axis_windows

__all__ = [
    "AxisGrid",
    "AxisWindow",
    "Box",
    "EnlargingSink",
    "ReducingSink",
    "Reduction",
    "Stitcher",
    "Tile",
    "TileBatch",
    "TileGrid",
    "Tiler",
    "axis_windows",
    "check_multiple",
    "labels_of",
    "reduced_dtype",
    "reduced_shape",
    "stitch_block",
    "tile_order",
    "touching_tiles",
]
