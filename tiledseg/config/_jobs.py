"""Settings of whole jobs: what the command line and a file say beyond what the functions take."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from tiledseg.config._base import Count, Names
from tiledseg.config._evaluate import EvaluateConfig
from tiledseg.config._predict import PredictConfig
from tiledseg.config._tiling import TilingConfig

__all__ = ["EvaluateJobConfig", "PredictJobConfig"]


class PredictJobConfig(PredictConfig):
    """What is predicted by what, what is written for each image, and how.

    Attributes
    ----------
    model : str or None
        Folder of a bundle, or a .keras file.
    trust : bool
        Whether to load a .keras file: its maker is known.
    inputs : tuple of str
        Image files, and folders of them.
    output : str or None
        Folder to write to; made where it is missing.
    tiling : TilingConfig or None
        How images are tiled; None for the model's own.
    """

    model: str | None = None
    trust: bool = False
    inputs: Names = ()
    output: str | None = None
    tiling: TilingConfig | None = None


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
