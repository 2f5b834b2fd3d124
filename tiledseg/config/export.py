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
    mask_threshold: MaskThreshold = "auto"
    """Value from which a px counts as foreground; None for masks that hold labels of classes. ``auto``: the
    values decide, and what could mean two things is an error that says what to set."""
    mask_parts: Literal["merged", "instances"] = "merged"
    """What values become: one foreground; cells with a number each (every value but 0 is a cell)."""
    ignore_label: Annotated[int, Field(ge=-(2**31), lt=2**32)] | None = None
    """Value of px that are left out; None where there is none."""
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
