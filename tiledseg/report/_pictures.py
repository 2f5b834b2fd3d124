"""The pictures of a report, small enough to live inside it."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from tiledseg._validate import instance_of, whole_number
from tiledseg.evaluate import ScoredImage
from tiledseg.plots import as_rgb, error_overlay, overlay

if TYPE_CHECKING:
    from tiledseg._types import AnyArray
    from tiledseg.plots import Rgb

__all__ = ["LONGEST_PX", "Picture", "PictureRow", "as_data_url", "picked", "picture_row", "shrunk"]

LONGEST_PX = 1280
_QUALITY = 88


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A picture with its title."""

    title: str  # what it shows
    pixels: Rgb  # RGB


@dataclass(frozen=True, slots=True, eq=False)
class PictureRow:
    """The pictures of one image."""

    name: str  # name of the image
    note: str  # A few words beside the name
    pictures: tuple[Picture, ...]  # the pictures, all of one size


def picture_row(
    scored: ScoredImage, *, longest_px: int = LONGEST_PX, limits: tuple[float, float] | None = None
) -> PictureRow:
    """Draw a scored image: input, truth, prediction, and where they differ."""
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
    """Shrink a picture by averaging areas."""
    height, width = picture.shape[:2]
    factor = min(1.0, longest_px / max(height, width))
    if factor == 1:
        return picture
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)


def picked(labels: AnyArray, picture: Rgb) -> AnyArray:
    """Take for each px of a picture the label at its centre."""
    height, width = picture.shape[:2]
    rows = (2 * np.arange(height) + 1) * labels.shape[0] // (2 * height)
    columns = (2 * np.arange(width) + 1) * labels.shape[1] // (2 * width)
    return np.asarray(labels[np.ix_(rows, columns)])


def as_data_url(picture: Rgb) -> str:
    """Pack a picture as JPEG, colours at full resolution, into a URL that holds it."""
    options = [cv2.IMWRITE_JPEG_QUALITY, _QUALITY]
    options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    _, packed = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), options)
    return f"data:image/jpeg;base64,{base64.b64encode(packed.tobytes()).decode()}"
