"""Reading a pair, checking it, and shrinking it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tiledseg._validate import array_of, check_finite, check_shape, invalid, whole_number
from tiledseg.data._masks import read_labels
from tiledseg.data._pairs import as_pair
from tiledseg.errors import ArrayError
from tiledseg.io import read_image
from tiledseg.preprocess import shrunk

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from tiledseg._types import AnyArray
    from tiledseg.config import PreprocessingConfig
    from tiledseg.data._pairs import Pair

__all__ = ["check_mask", "load_pair", "load_shrunk", "shrunk_labels"]

_MOST_LABELS = 5


def load_pair(pair: Pair) -> tuple[AnyArray, NDArray[np.uint8]]:
    """Read an image and its mask."""
    pair = as_pair(pair, "pair")
    image = load_image(pair)
    mask = pair.mask if isinstance(pair.mask, np.ndarray) else read_labels(pair)
    check_mask(mask, image.shape, 256)
    return image, mask.astype(np.uint8, copy=False)


def load_image(pair: Pair) -> AnyArray:
    """Read an image."""
    return pair.image if isinstance(pair.image, np.ndarray) else read_image(pair.image)


def check_mask(mask: AnyArray, image_shape: Sequence[int], classes: int) -> None:
    """Check that a mask holds labels, fits its image, and has no label outside the class set."""
    mask, size = array_of(mask, "mask"), check_shape(image_shape)[:2]
    if mask.dtype.kind not in "biu":
        raise invalid(
            ArrayError,
            "mask",
            must="hold labels: be boolean or integer",
            got=str(mask.dtype),
            fix="Cut it, as in mask >= 0.5.",
        )
    if mask.shape != size:
        raise invalid(
            ArrayError,
            "mask",
            must=f"have the height and width of its image, {size}",
            got=mask.shape,
            fix="Give labels (H, W) of the image's own size.",
        )
    most = max(1, whole_number("classes", classes) - 1)
    if mask.dtype.kind != "b" and mask.size and not 0 <= mask.min() <= mask.max() <= most:
        raise _outside(mask, most)


def _outside(mask: AnyArray, most: int) -> ArrayError:
    wrong = mask[(mask < 0) | (mask > most)]
    labels = np.unique(wrong)
    text = ", ".join(str(label) for label in labels[:_MOST_LABELS])
    got = f"{text}{', …' if len(labels) > _MOST_LABELS else ''} in {wrong.size} of {mask.size} px"
    fix = "Cut a grey mask, as in mask >= 128, or give the network more classes."
    return invalid(ArrayError, "mask", must=f"have labels in [0, {most}]", got=got, fix=fix)


def load_shrunk(
    pair: Pair, preprocessing: PreprocessingConfig, classes: int
) -> tuple[AnyArray, NDArray[np.uint8]]:
    """Read, check and shrink a pair."""
    image, mask = load_pair(pair)
    check_mask(mask, image.shape, classes)
    check_finite(image, "image")
    pixels = shrunk(image, preprocessing)
    height, width = pixels.shape[:2]
    return pixels, mask if (height, width) == mask.shape else shrunk_labels(mask, (height, width))


def shrunk_labels(mask: NDArray[np.uint8], shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Shrink a mask: each px takes the label at its centre."""
    return mask[np.ix_(_centres(shape[0], mask.shape[0]), _centres(shape[1], mask.shape[1]))]


def _centres(small: int, large: int) -> NDArray[np.intp]:
    """Say which of the large px the centre of each small px lies in."""
    return np.asarray((2 * np.arange(small) + 1) * large // (2 * small), np.intp)
