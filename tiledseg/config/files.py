"""Settings of reading: which part of a file is an image, and what the values of a mask mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator, Field

from tiledseg.config.base import Config
from tiledseg.config.fields import MaskThreshold, Names, as_numbers, as_tuple

MaskParts: TypeAlias = Literal["merged", "instances", "classes"]
"""What the values of a mask, or the masks of one image, become."""

ClassValues: TypeAlias = Annotated[
    tuple[Annotated[int, Field(ge=1, le=65535)], ...], as_numbers, Field(min_length=1, max_length=254)
]
"""Values of the labels 1, 2, …."""

CLASS_VALUES = (20, 40)


def _position_text(value: object) -> object:
    """Write a mapping of axes as text, as a settings file and a command have it."""
    if isinstance(value, Mapping):
        return ",".join(f"{axis}={place}" for axis, place in value.items())
    return value


Position: TypeAlias = Annotated[
    str, BeforeValidator(_position_text), Field(pattern=r"^[A-Za-z]+=\d+(,[A-Za-z]+=\d+)*$")
]
"""Position along axes other than y, x and the channels, for example ``z=3,t=0``."""


class ReadConfig(Config):
    """Which part of a file is the image."""

    level: Annotated[int, Field(ge=0)] = 0
    """Level of a pyramid that is read: 0 for the image, 1 and up for its smaller copies."""
    channels: Annotated[tuple[Annotated[int, Field(ge=0)], ...], as_tuple] | None = None
    """Channels of the image that are read, from 0, in that order; None for all. ``(0, 0, 0)`` gives a grey
    image to a network of RGB."""
    at: Position | None = None
    """Position along the other axes of an image, for example ``z=3`` or ``z=3,t=0``; needed where it has
    several."""
    page: Annotated[int, Field(ge=0)] | str | None = None
    """Page of a TIFF that is read, from 0; needed where there are several. Or the name of an image of a
    slide, for example ``macro``."""
    alpha: Literal["refuse", "drop", "keep"] = "refuse"
    """What to do about an alpha channel that is not opaque everywhere: refuse the image, drop the channel, or
    keep it as the last one."""

    @property
    def reading(self) -> dict[str, Any]:
        """These settings as options of `open_image` and `read_image`."""
        names = ("level", "channels", "page", "alpha")
        return {name: getattr(self, name) for name in names} | {"at": place_of(self.at)}


def place_of(text: str | None) -> dict[str, int] | None:
    """Read a position along axes."""
    if text is None:
        return None
    return {axis: int(place) for axis, _, place in (part.partition("=") for part in text.split(","))}


class MaskConfig(Config):
    """What the values of masks mean."""

    mask_threshold: MaskThreshold = "auto"
    """Value from which a px of a mask is foreground; none where values are the labels of classes. ``auto``:
    the values decide; 0 and one other value are background and foreground, and what could mean two things
    is an error that says what to set."""
    mask_parts: MaskParts = "merged"
    """What the values of a mask, or the masks of an image's cells, become: one foreground; cells with a
    number each (``instances``: every value but 0 is a cell, or every file); a label for each of
    ``class_values`` or ``class_names``."""
    class_values: ClassValues = CLASS_VALUES
    """Values of the labels 1, 2, …, for ``mask_parts="classes"``; those of cytoplasm and nucleus in SegPC.
    Where the masks of two cells overlap, the higher label holds."""
    class_names: Names = ()
    """Names of the classes 1, 2, … in masks that are outlines (GeoJSON, ImageJ ROI, COCO); where two overlap,
    the later class holds. Empty where every outline is foreground."""
    ignore_label: Annotated[int, Field(ge=-(2**31), lt=2**32)] | None = None
    """Value of px that do not count in the loss, in scores and in the choice of crops, for example 255; None
    where all count."""
    annotated_class: str | None = None
    """Name of the outlines inside which everything was annotated; px outside all of them do not count. None
    where whole images were annotated."""
    palette: Literal["refuse", "index", "colour"] = "refuse"
    """Value of a px of a mask with a palette: its index or its colour; by default a palette in which the two
    differ is refused."""
    mask_level: Annotated[int, Field(ge=0)] = 0
    """Level of a mask's pyramid: 0 for the mask, 1 and up for its smaller copies."""
    mask_channels: Annotated[tuple[Annotated[int, Field(ge=0)], ...], as_tuple] | None = None
    """Channel of a mask's file that holds the labels, from 0; needed where there are several that differ."""
    mask_at: Position | None = None
    """Position along the other axes of a mask's file, for example ``z=3``; needed where it has several."""
    mask_page: Annotated[int, Field(ge=0)] | str | None = None
    """Page of a mask's TIFF, from 0; needed where there are several."""

    @property
    def masking(self) -> dict[str, Any]:
        """These settings as arguments of `tiledseg.data.Pair`."""
        given = {name: getattr(self, name) for name in MaskConfig.model_fields}
        return given | {"mask_at": place_of(self.mask_at)}
