"""The pictures of a report, small enough to live inside it."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from tiledseg._arguments import instance_of
from tiledseg._checks import whole_number
from tiledseg.evaluate import ScoredImage
from tiledseg.render import as_rgb, error_overlay, overlay

if TYPE_CHECKING:
    from tiledseg._types import AnyArray
    from tiledseg.render import Rgb

__all__ = ["LONGEST_PX", "Picture", "PictureRow", "as_data_url", "picked", "picture_row", "shrunk"]

LONGEST_PX = 1280
_QUALITY = 88


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A picture with its title.

    Attributes
    ----------
    title : str
        What it shows.
    pixels : ndarray of uint8, shape (H, W, 3)
        RGB.
    """

    title: str
    pixels: Rgb


@dataclass(frozen=True, slots=True, eq=False)
class PictureRow:
    """The pictures of one image.

    Attributes
    ----------
    name : str
        Name of the image.
    note : str
        A few words beside the name.
    pictures : tuple of Picture
        The pictures, all of one size.
    """

    name: str
    note: str
    pictures: tuple[Picture, ...]


def picture_row(
    scored: ScoredImage, *, longest_px: int = LONGEST_PX, limits: tuple[float, float] | None = None
) -> PictureRow:
    """Draw a scored image: input, truth, prediction, and where they differ.

    Parameters
    ----------
    scored : ScoredImage
        An image with its truth and its prediction.
    longest_px : int
        The longer side of the pictures in px; a smaller image keeps its size.
    limits : tuple of float, optional
        Values of the image that become black and white; see `tiledseg.render.as_rgb`.

    Returns
    -------
    PictureRow
        Four pictures.

    Raises
    ------
    ArrayError
        If the image is neither grey nor RGB, or its range is not known without `limits`.
    SettingError
        If an argument is of another type.
    """
    instance_of(ScoredImage, scored, "scored", "Pass what Evaluator.evaluate gives its callback.")
    image = shrunk(as_rgb(scored.image, limits), whole_number("longest_px", longest_px))
    truth, predicted = picked(scored.truth, image), picked(scored.predicted, image)
    pictures = (
        Picture("Input", image),
        Picture("Truth", overlay(image, truth, outline_px=2)),
        Picture("Prediction", overlay(image, predicted, outline_px=2)),
        Picture("Agreement", error_overlay(image, predicted, truth)),
    )
    return PictureRow(scored.scores.name, f"Dice {scored.scores.dice:.3f}", pictures)


def shrunk(picture: Rgb, longest_px: int) -> Rgb:
    """Shrink a picture by averaging areas.

    Parameters
    ----------
    picture : ndarray of uint8, shape (H, W, 3)
        RGB.
    longest_px : int
        Its longer side afterwards, in px; a smaller picture stays.

    Returns
    -------
    ndarray of uint8, shape (h, w, 3)
        The picture, small.
    """
    height, width = picture.shape[:2]
    factor = min(1.0, longest_px / max(height, width))
    if factor == 1:
        return picture
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)


def picked(labels: AnyArray, picture: Rgb) -> AnyArray:
    """Take for each px of a picture the label at its centre.

    Parameters
    ----------
    labels : ndarray, shape (H, W)
        Labels.
    picture : ndarray, shape (h, w, 3)
        The picture.

    Returns
    -------
    ndarray, shape (h, w)
        Labels.
    """
    height, width = picture.shape[:2]
    rows = (2 * np.arange(height) + 1) * labels.shape[0] // (2 * height)
    columns = (2 * np.arange(width) + 1) * labels.shape[1] // (2 * width)
    return np.asarray(labels[np.ix_(rows, columns)])


def as_data_url(picture: Rgb) -> str:
    """Pack a picture as JPEG, colours at full resolution, into a URL that holds it.

    Parameters
    ----------
    picture : ndarray of uint8, shape (H, W, 3)
        RGB.

    Returns
    -------
    str
        ``data:image/jpeg;base64,…``.
    """
    options = [cv2.IMWRITE_JPEG_QUALITY, _QUALITY]
    options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    _, packed = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), options)
    return f"data:image/jpeg;base64,{base64.b64encode(packed.tobytes()).decode()}"
