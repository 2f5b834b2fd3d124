"""One line of a manifest: an image, its masks, and which split they belong to."""

from __future__ import annotations

import re
from typing import Annotated, Self, TypeAlias

from pydantic import BeforeValidator, Field, model_validator

from tiledseg._validate import check_component, invalid
from tiledseg.config._base import Config, Count, Names, Share, _plain
from tiledseg.config._data import MaskParts
from tiledseg.errors import FileError

__all__ = ["Record", "TileOrigin"]

Digest: TypeAlias = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
"""SHA-256 of a file's bytes."""

_ABSOLUTE = re.compile(r"[/\\]|[A-Za-z]:")


class TileOrigin(Config):
    """Where a tile was cut from.

    Attributes
    ----------
    image : str
        Name of the source image.
    digest : str
        Digest of its file.
    height, width : int
        Its size in px.
    scale : float
        Factor by which it was shrunk before it was cut.
    y, x : int
        First row and column of the tile in the shrunk image.
    thumbnail : bool
        Whether the tile is the whole image.
    """

    image: str
    digest: Digest
    height: Count
    width: Count
    scale: Annotated[float, Field(gt=0, le=1)]
    y: Annotated[int, Field(ge=0)]
    x: Annotated[int, Field(ge=0)]
    thumbnail: bool = False


class Record(Config):
    """An image and its masks in a manifest.

    Attributes
    ----------
    name : str
        What messages call it, and tiles of it are named after: one plain component of a path.
    image : str
        Path of the image, relative to the manifest, with ``/``.
    masks : tuple of str
        Paths of its masks, likewise.
    group : str
        What it stays together with.
    split : str
        The split that it belongs to, one plain component of a path; empty before there is one.
    height, width : int
        Size in px.
    foreground : float
        Share of the px that are foreground, in [0, 1].
    digest : str
        Digest of the image's file.
    mask_digests : tuple of str
        Digests of the masks' files, in their order.
    mask_threshold, mask_parts, class_values
        How the masks are read; see `DataConfig`.
    origin : TileOrigin or None
        Where it was cut from, if it is a tile.

    Raises
    ------
    FileError
        If a name or a split is no plain component of a path, a path is not relative or not UTF-8, or
        masks and digests differ in number.
    """

    name: str
    image: str
    masks: Annotated[Names, Field(min_length=1)]
    group: str
    split: str = ""
    height: Count
    width: Count
    foreground: Share
    digest: Digest
    mask_digests: Annotated[tuple[Digest, ...], BeforeValidator(_plain)]
    mask_threshold: Annotated[int, Field(ge=1, le=65535)] | None = 128
    mask_parts: MaskParts = "merged"
    class_values: Annotated[tuple[int, ...], BeforeValidator(_plain)] = (20, 40)
    origin: TileOrigin | None = None

    @property
    def source(self) -> str:
        """Digest of the image that its px come from."""
        return self.digest if self.origin is None else self.origin.digest

    @model_validator(mode="after")
    def _paths(self) -> Self:
        # tiles are written to folders and files of these names
        check_component(self.name, "name", "Rename the file, or write the manifest again.")
        if self.split:
            check_component(self.split, "split", "Name splits as in train, valid, test.")
        for path in (self.name, self.image, *self.masks):
            if any("\ud800" <= mark <= "\udfff" for mark in path):
                raise invalid(
                    FileError,
                    self.name,
                    must="be a name in UTF-8 to stand in a manifest",
                    got=path,
                    fix="Rename the file.",
                )
        for path in (self.image, *self.masks):
            if not path or _ABSOLUTE.match(path):
                raise invalid(
                    FileError,
                    self.name,
                    must="have paths relative to the manifest",
                    got=path,
                    fix="Write the manifest with tiledseg split, on the disk of the data.",
                )
        if len(self.masks) != len(self.mask_digests):
            raise invalid(
                FileError,
                self.name,
                must=f"have {len(self.masks)} mask digests",
                got=len(self.mask_digests),
                fix="Write the manifest again.",
            )
        return self
