"""Pictures of images with their masks and of scored images, small enough to embed in a page."""

from __future__ import annotations

import base64
import logging
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np

from tiledseg._lazy import cv2
from tiledseg._validate import array_of, instance_of, path_text, real_pair, shown, whole_number
from tiledseg.data import check_mask
from tiledseg.errors import ArrayError
from tiledseg.evaluate import ScoredImage
from tiledseg.io import write_image
from tiledseg.plots import (
    Picture,
    PictureRow,
    as_rgb,
    colourise,
    contact_sheet,
    error_overlay,
    overlay,
    shrunk,
)

if TYPE_CHECKING:
    from tiledseg._types import AnyArray, PathLike
    from tiledseg.plots import Rgb

_log = logging.getLogger("tiledseg")
LONGEST_PX = 1280
_QUALITY = 88
_MOST_LABELS = 65536
_FEW = 6  # images in one column of a sheet


def picture_row(
    scored: ScoredImage, *, longest_px: int = LONGEST_PX, limits: tuple[float, float] | None = None
) -> PictureRow:
    """Draw a scored image: input, truth, prediction, and where they differ."""
    instance_of(ScoredImage, scored, "scored", "Pass what Evaluator.evaluate gives its callback.")
    image = shrunk(as_rgb(scored.image, limits), whole_number("longest_px", longest_px))
    truth, predicted = nearest_labels(scored.truth, image), nearest_labels(scored.predicted, image)
    pictures = (
        Picture("Input", image),
        Picture("Truth", overlay(image, truth, outline_px=2)),
        Picture("Prediction", overlay(image, predicted, outline_px=2)),
        Picture("Agreement", error_overlay(image, predicted, truth)),
    )
    return PictureRow(scored.scores.name, f"Dice {scored.scores.dice:.3f}", pictures)


def nearest_labels(labels: AnyArray, picture: Rgb) -> AnyArray:
    """Return the label at the centre of each px of a picture."""
    height, width = picture.shape[:2]
    rows = (2 * np.arange(height) + 1) * labels.shape[0] // (2 * height)
    columns = (2 * np.arange(width) + 1) * labels.shape[1] // (2 * width)
    return np.asarray(labels[np.ix_(rows, columns)])


def as_data_url(picture: Rgb) -> str:
    """Encode a picture as a data URL: a JPEG without chroma subsampling."""
    options = [cv2.IMWRITE_JPEG_QUALITY, _QUALITY]
    options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), options)
    return f"data:image/jpeg;base64,{base64.b64encode(encoded.tobytes()).decode()}"


class WorstCases:
    """A callback of the Evaluator that draws the images of the lowest Dice."""

    def __init__(
        self, n_images: int = 8, *, longest_px: int = 960, limits: tuple[float, float] | None = None
    ) -> None:
        self._most = whole_number("n_images", n_images, 0)
        self._longest_px, self._limits = whole_number("longest_px", longest_px), limits
        if limits is not None:
            real_pair("limits", limits, "be finite, the lower first", "Use (0, 4095), for example.")
        self._rows: list[tuple[float, PictureRow]] = []

    @property
    def rows(self) -> list[PictureRow]:
        """The pictures of the worst images, the worst first."""
        return [row for _, row in self._rows]

    def __call__(self, scored: ScoredImage) -> None:
        """Draw an image if it is among the worst so far."""
        instance_of(ScoredImage, scored, "scored", "Pass what Evaluator.evaluate gives its callback.")
        dice = scored.scores.dice
        if not self._most or (len(self._rows) == self._most and dice >= self._rows[-1][0]):
            return
        try:
            row = picture_row(scored, longest_px=self._longest_px, limits=self._limits)
        except ArrayError as error:
            _log.warning("%s: no picture: %s", shown(scored.scores.name), error)
            return
        self._rows = sorted([*self._rows, (dice, row)], key=lambda one: one[0])[: self._most]

    def add_other(self, scored: ScoredImage, title: str) -> None:
        """Add another segmenter's prediction to the pictures of an image."""
        for index, (dice, row) in enumerate(self._rows):
            if row.name == scored.scores.name:
                other = picture_row(scored, longest_px=self._longest_px, limits=self._limits)
                pictures = [replace(one, title=f"{one.title} of {title}") for one in other.pictures[2:]]
                note = f"{row.note}, {title}: {other.note}"
                self._rows[index] = dice, replace(row, note=note, pictures=(*row.pictures, *pictures))


class Triples:
    """A callback of the Evaluator that draws input, truth and prediction of every image."""

    def __init__(
        self, *, longest_px: int = LONGEST_PX, thumb_px: int = 400, limits: tuple[float, float] | None = None
    ) -> None:
        self._sizes = whole_number("longest_px", longest_px), whole_number("thumb_px", thumb_px)
        self._limits = limits
        self._folder = tempfile.TemporaryDirectory(prefix="tiledseg-")  # the pictures of many images
        self._rows: list[PictureRow] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def __call__(self, scored: ScoredImage) -> None:
        """Draw an image."""
        instance_of(ScoredImage, scored, "scored", "Pass what Evaluator.evaluate gives its callback.")
        try:
            large, small = (self._row(scored, size) for size in self._sizes)
        except ArrayError as error:
            _log.warning("%s: no picture: %s", shown(scored.scores.name), error)
            return
        title = "Input, truth, prediction"
        write_image(Path(self._folder.name, f"{large.name}.png"), contact_sheet(title, [large], columns=1))
        self._rows.append(small)

    def _row(self, scored: ScoredImage, longest_px: int) -> PictureRow:
        image = shrunk(as_rgb(scored.image, self._limits), longest_px)
        masks = (colourise(nearest_labels(one, image)) for one in (scored.truth, scored.predicted))
        titles = ("Input", "Truth", "Prediction")
        pictures = (Picture(title, one) for title, one in zip(titles, (image, *masks), strict=True))
        return PictureRow(scored.scores.name, f"Dice {scored.scores.dice:.3f}", tuple(pictures))

    def write(self, folder: PathLike) -> None:
        """Write ``sheet.png`` and ``triples/NAME.png`` into a folder.

        Parameters
        ----------
        folder : path
            A folder that has neither.

        Raises
        ------
        FileError
            If a file cannot be written.
        """
        if not self._rows:
            return
        columns = 1 if len(self._rows) <= _FEW else 2
        sheet = contact_sheet("Input, truth, prediction", self._rows, columns=columns)
        write_image(Path(path_text(folder), "sheet.png"), sheet)
        shutil.copytree(self._folder.name, Path(path_text(folder), "triples"))


def mask_row(name: str, note: str, image: AnyArray, mask: AnyArray, *, thumb_px: int) -> PictureRow:
    """Draw thumbnails of an image, its mask, and both together."""
    image, thumb_px = array_of(image, "image"), whole_number("thumb_px", thumb_px)
    check_mask(mask, image.shape, _MOST_LABELS)
    limits = None
    if image.dtype.kind == "f":
        low, high = float(image.min()), float(image.max())
        limits = (low, high if high > low else low + 1)
    small = shrunk(as_rgb(image, limits), thumb_px)
    labels = nearest_labels(mask, small)
    pictures = (
        Picture("Image", small),
        Picture("Mask", colourise(labels, background=(235, 235, 235))),
        Picture("Both", overlay(small, labels)),
    )
    return PictureRow(name, note, pictures)
