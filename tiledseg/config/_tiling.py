"""Settings of the tiling: how large, how much shared, how blended, how padded."""

from __future__ import annotations

from typing import Annotated, Literal, Self, TypeAlias

from pydantic import BeforeValidator, Field, model_validator

from tiledseg._checks import broken
from tiledseg.config._base import Config, Pair, _plain, pair_of
from tiledseg.errors import SettingError

__all__ = ["Blend", "PadMode", "TilingConfig"]

Blend: TypeAlias = Literal["crop", "constant", "linear", "hann", "gaussian"]
"""Name of a blending window."""

PadMode: TypeAlias = Literal["reflect", "symmetric", "edge", "wrap", "constant"]
"""NumPy's name of a way to pad."""

_Pixels: TypeAlias = Annotated[int, Field(ge=0)]
_Fraction: TypeAlias = Annotated[float, Field(ge=0, lt=1)]


class TilingConfig(Config):
    """How an image is cut into tiles and how their outputs are blended.

    Attributes
    ----------
    tile_size : int or tuple of int
        Tile height and width in px, (y, x); one number for both; ``"256x384"`` as text.
    overlap : int or float or tuple of int
        Least overlap of neighbours: whole numbers are px, in [0, tile); a float is a
        fraction of the tile in [0, 1).
    blend : {"crop", "constant", "linear", "hann", "gaussian"}
        Blending window; ``crop`` takes each pixel from one tile alone.
    alignment : int or tuple of int
        Tile origins are multiples of this many px, (y, x). The total stride of a network is
        taken into account besides.
    pad_mode : {"reflect", "symmetric", "edge", "wrap", "constant"}
        How an image smaller than a tile is padded, in NumPy's terms.
    pad_value : float
        Value of the padding for ``pad_mode="constant"``, in the range of what is tiled: pixel
        values as they are for a bare network, prepared ones for a segmenter.

    Raises
    ------
    SettingError
        If a value is out of its range, or the overlap leaves no step between tiles.

    Examples
    --------
    >>> TilingConfig(tile_size=512, overlap=0.25).overlap_px
    (128, 128)
    """

    tile_size: Pair = 512
    overlap: Annotated[_Pixels | _Fraction | tuple[_Pixels, _Pixels], BeforeValidator(_plain)] = 0.25
    blend: Blend = "gaussian"
    alignment: Pair = 1
    pad_mode: PadMode = "reflect"
    pad_value: float = 0.0

    @property
    def tile_shape(self) -> tuple[int, int]:
        """Tile height and width in px, (y, x)."""
        return pair_of(self.tile_size)

    @property
    def overlap_px(self) -> tuple[int, int]:
        """Least overlap in px, (y, x)."""
        if isinstance(self.overlap, float):
            return (int(self.tile_shape[0] * self.overlap), int(self.tile_shape[1] * self.overlap))
        return pair_of(self.overlap)

    @property
    def alignment_px(self) -> tuple[int, int]:
        """Divisor of all tile origins in px, (y, x)."""
        return pair_of(self.alignment)

    @model_validator(mode="after")
    def _steps(self) -> Self:
        for axis, tile, overlap, step in zip(
            "yx", self.tile_shape, self.overlap_px, self.alignment_px, strict=True
        ):
            if overlap >= tile:
                raise broken(
                    SettingError,
                    "overlap",
                    must=f"be in [0, tile) with tile={tile} along {axis}",
                    got=overlap,
                    fix=f"Use at most {tile - 1}.",
                )
            if tile - overlap < step:
                raise broken(
                    SettingError,
                    "overlap",
                    must=f"leave a step of at least alignment={step} px with tile={tile} along {axis}",
                    got=overlap,
                    fix=f"Use at most {tile - step}."
                    if tile >= step
                    else f"Use a tile of at least {step} px.",
                )
        return self
