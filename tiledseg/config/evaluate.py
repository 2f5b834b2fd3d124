"""Settings of evaluation."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from tiledseg._validate import invalid
from tiledseg.config.base import Config, Count
from tiledseg.config.runtime import TTA, RuntimeConfig
from tiledseg.config.tiling import TilingConfig
from tiledseg.errors import SettingError

__all__ = ["EvaluateConfig", "EvaluateJobConfig"]


class EvaluateConfig(Config):
    """How a segmenter is scored.

    Attributes
    ----------
    threshold : float, "valid" or None
        Where probabilities are cut, in (0, 1); ``"valid"`` for where the mean Dice of the
        validation images is highest; None for the segmenter's own.
    tiling : TilingConfig or None
        How images are tiled; None for the segmenter's own.
    batch_size : int or None
        Tiles per call of the network; None to choose by memory.
    runtime : RuntimeConfig
        Engine, precision, devices and memory.
    tta : {"flips", "d4"} or None
        Test-time augmentation: outputs of a tile and its mirror images are averaged; None for the
        segmenter's own.
    boundary_px : float or None
        How near two outlines must be to agree, in px; None for 0.75 % of the image's diagonal.
    cell_px : int
        Smaller areas, in px, count as no cells.
    group_regex : str or None
        Regular expression that finds in an image's name what it shares with others, its slide say;
        its first group, or all that it finds. Intervals then draw whole groups. None where each
        image stands alone.

    Raises
    ------
    SettingError
        If `group_regex` is no regular expression.
    """

    threshold: Annotated[float, Field(gt=0, lt=1)] | Literal["valid"] | None = None
    tiling: TilingConfig | None = None
    batch_size: Count | None = None
    runtime: RuntimeConfig = RuntimeConfig()
    tta: TTA | None = None
    boundary_px: Annotated[float, Field(ge=0)] | None = None
    cell_px: Count = 1
    group_regex: str | None = None

    @model_validator(mode="after")
    def _compiles(self) -> Self:
        try:
            re.compile(self.group_regex or "")
        except re.error as error:
            raise invalid(
                SettingError,
                "group_regex",
                must="be a regular expression",
                got=self.group_regex,
                fix=f"{error}".capitalize() + ".",
            ) from None
        return self


class EvaluateJobConfig(EvaluateConfig):
    """What is scored, how, and what is written of it.

    Attributes
    ----------
    model : str or None
        Folder of a bundle, a .keras file, or ``maps:FOLDER`` for maps that are ready.
    trust : bool
        Whether to load a .keras file: its maker is known.
    against : str or None
        Another one, to compare with on the same images.
    output : str or None
        New folder for tables, pictures and ``report.html``; None to print a table alone.
    pictures : int
        How many of the worst images are drawn, from 0.
    tile_px : int or None
        Px of the tiles that ready maps were pasted from, for the seam ratio; None for no ratio.
    """

    model: str | None = None
    trust: bool = False
    against: str | None = None
    output: str | None = None
    pictures: Annotated[int, Field(ge=0, le=1000)] = 8
    tile_px: Count | None = None
