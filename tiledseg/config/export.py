"""Settings of exports."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tiledseg.config.base import Config, Count, MaskThreshold, Names, as_tuple


class ExportConfig(Config):
    """How the cells of masks are written for other programs."""

    inputs: Names = ()
    """Mask files, and folders of them."""
    output: str | None = None
    """New folder to write to."""
    write: Annotated[tuple[Literal["geojson", "coco"], ...], as_tuple, Field(min_length=1)] = ("geojson",)
    """What is written: ``geojson`` one file for each mask, as QuPath imports it; ``coco`` one file of
    instances for all of them."""
    names: Annotated[Names, Field(min_length=1)] = ("foreground",)
    """Name of the labels 1, 2, …."""
    mask_threshold: MaskThreshold = 128
    """Grey value from which a px counts as foreground; None for masks that hold labels."""
    cell_px: Count = 1
    """Smaller areas, in px, are left out."""
    recursive: bool = False
    """Whether folders inside the given folders are searched too."""
