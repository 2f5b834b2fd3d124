"""Settings of whole jobs: what the command line and a file say beyond what the functions take."""

from __future__ import annotations

from tiledseg.config._base import Names
from tiledseg.config._predict import PredictConfig
from tiledseg.config._tiling import TilingConfig

__all__ = ["PredictJobConfig"]


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
