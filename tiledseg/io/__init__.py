"""Images, masks and probabilities: files to arrays and back, read safely, written whole or not at all.

Python opens the files; OpenCV and tifffile only decode and encode. The size that a file declares is checked
before memory is allocated for it. A file that can be read in two ways is an error that names both.
"""

from tiledseg.io.areas import Outline, OutlineMask, class_text, painted
from tiledseg.io.file import MAX_PIXELS, advised, content_digest, state_of
from tiledseg.io.find import SUFFIXES, find_images, images_in, path_texts, stem_of
from tiledseg.io.masks import IGNORED, OF_ARRAYS, OF_EXPORT, OF_PAIRS, OF_READ_MASK, Mask, MaskRules, mask_of
from tiledseg.io.metadata import PixelSize, Placement, pixel_size_from
from tiledseg.io.open import MAX_REGION_PIXELS, open_image
from tiledseg.io.orientation import Drawn, warn_of_orientation
from tiledseg.io.outlines import OUTLINE_SUFFIXES, coco_images, is_outlines, read_outlines
from tiledseg.io.partial import check_identity
from tiledseg.io.read import (
    image_shape,
    mask_values,
    open_labels,
    read_image,
    read_mask,
    read_pixel_size,
    read_probs,
)
from tiledseg.io.regions import CachedBlocks
from tiledseg.io.remote import as_path, is_remote
from tiledseg.io.sink import ImageSink, create_image
from tiledseg.io.source import (
    ImageSource,
    as_array,
    check_own_memory,
    check_values,
    in_memory,
    rows_and_columns,
)
from tiledseg.io.write import (
    LEVEL_SCALE,
    PngRows,
    level_notes,
    level_scale_of,
    write_image,
    write_mask,
    write_probs,
)
from tiledseg.io.zarr import is_zarr
from tiledseg.io.zarr_labels import check_labels_writable, holds_labels, write_labels

__all__ = [
    "IGNORED",
    "LEVEL_SCALE",
    "MAX_PIXELS",
    "MAX_REGION_PIXELS",
    "OF_ARRAYS",
    "OF_EXPORT",
    "OF_PAIRS",
    "OF_READ_MASK",
    "OUTLINE_SUFFIXES",
    "SUFFIXES",
    "CachedBlocks",
    "Drawn",
    "ImageSink",
    "ImageSource",
    "Mask",
    "MaskRules",
    "Outline",
    "OutlineMask",
    "PixelSize",
    "Placement",
    "PngRows",
    "advised",
    "as_array",
    "as_path",
    "check_identity",
    "check_labels_writable",
    "check_own_memory",
    "check_values",
    "class_text",
    "coco_images",
    "content_digest",
    "create_image",
    "find_images",
    "holds_labels",
    "image_shape",
    "images_in",
    "in_memory",
    "is_outlines",
    "is_remote",
    "is_zarr",
    "level_notes",
    "level_scale_of",
    "mask_of",
    "mask_values",
    "open_image",
    "open_labels",
    "painted",
    "path_texts",
    "pixel_size_from",
    "read_image",
    "read_mask",
    "read_outlines",
    "read_pixel_size",
    "read_probs",
    "rows_and_columns",
    "state_of",
    "stem_of",
    "warn_of_orientation",
    "write_image",
    "write_labels",
    "write_mask",
    "write_probs",
]
