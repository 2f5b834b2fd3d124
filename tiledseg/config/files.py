"""Settings of files: which part of one is an image, what the values of a mask mean, what is exported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator, Field, PositiveFloat

from tiledseg.config.base import Config
from tiledseg.config.fields import Count, MaskThreshold, Names, as_numbers, as_tuple

MaskParts: TypeAlias = Literal["merged", "instances", "classes"]
"""What the values of a mask, or the masks of one image, become."""

ClassValues: TypeAlias = Annotated[
    tuple[Annotated[int, Field(ge=1, le=65535)], ...], as_numbers, Field(min_length=1, max_length=254)
]
"""Values of the labels 1, 2, …."""

CLASS_VALUES = (20, 40)

ExportFormat: TypeAlias = Literal["geojson", "coco", "roi"]
"""A format of objects."""

ObjectType: TypeAlias = Literal["detection", "annotation"]
"""How QuPath shows an object."""


def _position_text(value: object) -> object:
    """Write a mapping of axes as text, as a settings file and a command have it."""
    if isinstance(value, Mapping):
        return ",".join(f"{axis}={place}" for axis, place in value.items())
    return value


Position: TypeAlias = Annotated[
    str, BeforeValidator(_position_text), Field(pattern=r"^[A-Za-z]+=\d+(,[A-Za-z]+=\d+)*$")
]
"""Position along axes other than y, x and the channels, for example ``z=3,t=0``."""


def _listed(value: object) -> object:
    """Turn one number and a list into a tuple."""
    return tuple(value) if isinstance(value, list) else (value,) if isinstance(value, int) else value


Channels: TypeAlias = Annotated[tuple[Annotated[int, Field(ge=0)], ...], BeforeValidator(_listed)]
"""Numbers of channels, from 0."""


class ReadConfig(Config):
    """Which part of a file is the image."""

    level: Annotated[int, Field(ge=0)] = 0
    """Level of a pyramid that is read: 0 for the image, 1 and up for its smaller copies."""
    channels: Channels | None = None
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
        return _reading(self)


def _reading(settings: ReadConfig | ExportConfig) -> dict[str, Any]:
    names = ("level", "channels", "page", "alpha")
    return {name: getattr(settings, name) for name in names} | {"at": place_of(settings.at)}


def place_of(text: str | None) -> dict[str, int] | None:
    """Read a position along axes."""
    if text is None:
        return None
    return {axis: int(place) for axis, _, place in (part.partition("=") for part in text.split(","))}


class MaskConfig(Config):
    """What the values of masks mean."""

    mask_threshold: MaskThreshold = "auto"
    """Value from which a px of a mask is foreground; none where values are the labels of classes. ``auto``:
    the values decide; 0 and one of 1, 255 or 65535 are background and foreground, and what could mean two
    things is an error that says what to set."""
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
    mask_channels: Channels | None = None
    """Channel of a mask's file that holds the labels, from 0; needed where there are several that differ."""
    mask_at: Position | None = None
    """Position along the other axes of a mask's file, for example ``z=3``; needed where it has several."""
    mask_page: Annotated[int, Field(ge=0)] | str | None = None
    """Page of a mask's TIFF, from 0; needed where there are several."""

    def _check(self) -> None:
        if self.mask_parts != "classes" and self.class_values != CLASS_VALUES:
            must, fix = "be left out where mask_parts is not classes", "Set `mask_parts` to classes."
            raise self._invalid("class_values", must, fix)
        if len(set(self.class_values)) < len(self.class_values):
            raise self._invalid(
                "class_values", "differ from each other", "Give each class a value of its own."
            )
        if len(set(self.class_names)) < len(self.class_names):
            raise self._invalid("class_names", "differ from each other", "Name each class once.")

    @property
    def masking(self) -> dict[str, Any]:
        """These settings as arguments of `tiledseg.data.Pair`."""
        given = {name: getattr(self, name) for name in MaskConfig.model_fields}
        return given | {"mask_at": place_of(self.mask_at)}


class ObjectFormats(Config):
    """How objects are written for other programs."""

    object_type: ObjectType = "detection"
    """How QuPath shows an object; it handles many detections better than many annotations."""
    compress: bool = False
    """Whether GeoJSON is written as ``.geojson.gz``."""
    coco_segmentation: Literal["rle", "polygons"] = "rle"
    """How px are stated in COCO. Objects with holes are always run lengths."""
    tolerance: Annotated[float, Field(ge=0)] = 0.0
    """By how many px a simplified outline may differ from that of the px; 0 keeps each corner."""


class ExportConfig(Config):
    """How the objects of masks are written for other programs."""

    inputs: Names = ()
    """Mask files, and folders of them."""
    output: str | None = None
    """New folder to write to."""
    write: Annotated[tuple[ExportFormat, ...], as_tuple, Field(min_length=1)] = ("geojson",)
    """What is written: ``geojson`` one file for each mask, as QuPath imports it; ``roi`` a zip of ImageJ
    regions for each mask (extra ``roi``); ``coco`` one file of instances for all of them."""
    names: Annotated[Names, Field(min_length=1)] = ("foreground",)
    """Name of the labels 1, 2, …."""
    instances: bool = False
    """Whether each label of a mask is one object, named by the first name; otherwise labels are classes, and
    each connected area is an object."""
    formats: ObjectFormats = ObjectFormats()
    """How the formats are written."""
    level_scale: Annotated[tuple[PositiveFloat, PositiveFloat], as_tuple] | None = None
    """Px of level 0 for each px of the masks, (y, x); for masks of a smaller level of the image. None for
    what is recorded beside masks that tiledseg wrote, else 1."""
    mask_threshold: MaskThreshold = "auto"
    """Value from which a px counts as foreground; None for masks that hold labels of classes. ``auto``: the
    values decide, and what could mean two things is an error that says what to set."""
    ignore_label: Annotated[int, Field(ge=-(2**31), lt=2**32)] | None = None
    """Value of px that are left out; None where there is none."""
    level: Annotated[int, Field(ge=0)] = 0
    """Level of a mask's pyramid that is read: 0 for the mask, 1 and up for its smaller copies."""
    at: Position | None = None
    """Place along the other axes of a mask, as in ``z=3`` or ``z=3,t=0``; needed where it has several."""
    channels: Channels | None = None
    """Channel that holds the labels, from 0; needed where there are several."""
    page: Annotated[int, Field(ge=0)] | None = None
    """Page of a TIFF that is read, from 0; needed where there are several."""
    alpha: Literal["refuse", "drop"] = "refuse"
    """What to do about an alpha channel that is not opaque everywhere."""
    palette: Literal["refuse", "index", "colour"] = "refuse"
    """Value of a px of a mask with a palette: its index or its colour; by default a palette in which the two
    differ is refused."""
    cell_px: Count = 1
    """Smaller areas, in px, are left out."""
    recursive: bool = False
    """Whether folders inside the given folders are searched too."""

    @property
    def reading(self) -> dict[str, Any]:
        """These settings as options of `open_image`."""
        return _reading(self)


class PackageConfig(Config):
    """What a BioImage.IO package says of its model: who made it, and how it may be used."""

    title: Annotated[str, Field(max_length=128, pattern=r"^[a-zA-Z0-9][a-zA-Z0-9_+\- ()]*$")] = "segmenter"
    """Name of the model: letters, digits, spaces and ``_+-()``."""
    description: Annotated[str, Field(max_length=1024)] = ""
    """What it segments; made from the labels where it is left out."""
    authors: Annotated[Names, Field(min_length=1)]
    """Names of the authors."""
    license: Annotated[str, Field(min_length=1, max_length=100)]
    """Licence of the weights as an SPDX identifier, for example ``CC-BY-4.0``."""
    cite: Names = ()
    """Publications to cite, each ending in its DOI or URL: ``"Author (2026). Title. 10.1234/5678"``."""
    tags: Names = ()
    """Words by which it is found."""
    documentation: Annotated[str, Field(max_length=1_000_000)] = ""
    """Text in Markdown: training data, limits, how it was validated."""
