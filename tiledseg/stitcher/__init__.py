"""From batches of outputs to one map, row by row into a sink."""

from tiledseg.stitcher._block import stitch_block, touching_tiles
from tiledseg.stitcher._enlarge import EnlargingSink
from tiledseg.stitcher._panels import tile_order
from tiledseg.stitcher._reduce import ReducingSink, Reduction, labels_of, reduced_dtype, reduced_shape
from tiledseg.stitcher._stitcher import Stitcher

__all__ = [
    "EnlargingSink",
    "ReducingSink",
    "Reduction",
    "Stitcher",
    "labels_of",
    "reduced_dtype",
    "reduced_shape",
    "stitch_block",
    "tile_order",
    "touching_tiles",
]
