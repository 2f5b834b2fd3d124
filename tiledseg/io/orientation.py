"""How files turn their images (Exif, TIFF), and which masks were drawn on images turned otherwise."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tiledseg._validate import listed, path_text
from tiledseg.errors import TiledSegError
from tiledseg.io.file import MAX_PIXELS, Request, is_turned, opened, sniff
from tiledseg.io.open import is_npy
from tiledseg.io.outlines import is_outlines
from tiledseg.io.raster import raster_orientation
from tiledseg.io.read import image_shape
from tiledseg.io.slides import is_slide
from tiledseg.io.tiff import tiff_header
from tiledseg.io.zarr import is_zarr

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tiledseg._types import PathLike, Source

_log = logging.getLogger("tiledseg")
_MOST_NAMES = 20
_looked_at: set[object] = set()


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """An image, and the files of a mask or of outlines that were drawn on it."""

    name: str
    image: PathLike | Source  # its path, or its px
    files: tuple[PathLike, ...]
    page: int | str | None = None  # of the image's file
    file_page: int | str | None = None  # of the others

    @property
    def facts(self) -> object:
        """What says whether it is turned; of px their shape, as later ones may get the same id."""
        image = self.image
        own = os.path.realpath(image) if isinstance(image, str | os.PathLike) else tuple(image.shape)
        return own, self.page, str(self.files), self.file_page

    def is_turned(self) -> bool:
        """Say whether a file may have been drawn on an image that was turned otherwise."""
        try:
            own = _orientation(self.image, self.page)
            if any(is_outlines(path) for path in self.files):  # which state none
                return own != 1
            others = {_orientation(path, self.file_page) for path in self.files} or {1}
            if others == {own}:
                return False
            if len({is_turned(one) for one in (own, *others)}) == 1:
                return True
            image = self.image
            shape = (
                image_shape(image, page=self.page) if isinstance(image, str | os.PathLike) else image.shape
            )
        except TiledSegError:  # told where it is read
            return False
        return bool(shape[0] == shape[1])


def warn_of_orientation(drawn: Iterable[Drawn], what: str = "mask") -> None:
    """Warn once of images and what was drawn on them that are turned differently, and no size shows it."""
    new = {one.facts: one for one in drawn}
    turned = [one.name for facts, one in new.items() if facts not in _looked_at and one.is_turned()]
    _looked_at.update(new)
    if turned:
        _log.warning(
            "Image and %s of %s state different orientations (Exif, TIFF), and no size shows it: files are "
            "turned as they state, and masks and outlines belong to images as they are shown. If yours were "
            "drawn on the px as stored, which ImageJ and QuPath show, remove the orientation of the images.",
            what,
            listed(turned, _MOST_NAMES),
        )


def _orientation(image: PathLike | Source, page: int | str | None) -> int:
    """Read how Exif or a TIFF tag turns an image, 1 to 8; 1 where nothing turns it."""
    if not isinstance(image, str | os.PathLike) or is_zarr(text := path_text(image)):
        return 1
    with opened(image) as file:
        kind = None if is_npy(file) or is_slide(file, text) else sniff(file)
        if kind == "tiff":
            return tiff_header(file, Request(page, MAX_PIXELS, "drop"))[1]
        return 1 if kind is None else raster_orientation(file, kind, MAX_PIXELS)
