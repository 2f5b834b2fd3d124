"""Settings of exports."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from tiledseg.config.base import Config, Count, Names, _tupled

__all__ = ["ExportConfig"]


class ExportConfig(Config):
    """How the cells of masks are written for other programs.

    Attributes
    ----------
    inputs : tuple of str
        Mask files, and folders of them.
    output : str or None
        New folder to write to.
    write : tuple of {"geojson", "coco"}
        What is written: ``geojson`` one file for each mask, as QuPath imports it; ``coco`` one
        file of instances for all of them.
    names : tuple of str
        Name of the labels 1, 2, ….
    mask_threshold : int or None
        Grey value from which a px counts as foreground; None for masks that hold labels.
    cell_px : int
        Smaller areas, in px, are left out.
    recursive : bool
        Whether folders inside the given folders are searched too.
    """

    inputs: Names = ()
    output: str | None = None
    write: Annotated[
        tuple[Literal["geojson", "coco"], ...], BeforeValidator(_tupled), Field(min_length=1)
    ] = ("geojson",)
    names: Annotated[Names, Field(min_length=1)] = ("foreground",)
    mask_threshold: Annotated[int, Field(ge=1, le=65535)] | None = 128
    cell_px: Count = 1
    recursive: bool = False
