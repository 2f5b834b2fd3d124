"""Settings of the tiling: how large, how much shared, how blended, how padded."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator, Field, model_validator

from tiledseg._validate import invalid, pair_of
from tiledseg.config.base import Config
from tiledseg.config.fields import Count, Pair, Real32, as_numbers, numbers_of
from tiledseg.errors import SettingError

Blend: TypeAlias = Literal["crop", "constant", "linear", "hann", "gaussian"]
"""Name of a blending window."""

PadMode: TypeAlias = Literal["reflect", "symmetric", "edge", "wrap", "constant"]
"""NumPy's name of a way to pad."""

_PIXELS_WITH_AUTO = 64
_Pixels: TypeAlias = Annotated[int, Field(ge=0)]
_Fraction: TypeAlias = Annotated[float, Field(ge=0, lt=1)]


def _overlap(value: object) -> object:
    plain = numbers_of(value)
    if isinstance(plain, bool) or not (isinstance(plain, int | float | tuple) or plain == "exact"):
        raise invalid(
            SettingError,
            "overlap",
            must='be px, a fraction of the tile or "exact"',
            got=value,
            fix='Use for example 64, 0.25 or "exact".',
        )
    return plain


class TilingConfig(Config):
    """How an image is cut into tiles and how their outputs are blended.

    Examples
    --------
    >>> TilingConfig(tile_size=512, overlap=0.25).overlap_px
    (128, 128)
    >>> TilingConfig(overlap="exact").blend
    'crop'
    """

    tile_size: Annotated[Count | tuple[Count, Count] | Literal["auto"], as_numbers] = 512
    """Tile height and width in px, (y, x); one number for both; ``"256x384"`` as text; ``"auto"`` takes
    the tile that fits into memory and computes the fewest px; it needs a network and an image."""
    overlap: Annotated[
        _Pixels | _Fraction | tuple[_Pixels, _Pixels] | Literal["exact"], BeforeValidator(_overlap)
    ] = 0.25
    """Least overlap of neighbours: whole numbers are px, in [0, tile); a float is a fraction of the tile
    in [0, 1); ``"exact"`` is the least that makes the tiled result equal to that of the whole image;
    it needs a network. The default is a quarter of the tile, and 64 px with
    ``tile_size="auto"``."""
    blend: Blend = "gaussian"
    """Blending window; ``crop`` takes each px from only one tile. The default is ``gaussian``, and
    ``crop`` with ``overlap="exact"``, which allows no other."""
    alignment: Pair = 1
    """Tile origins are multiples of this many px, (y, x). The total stride of a network is taken into
    account, too."""
    pad_mode: PadMode = "reflect"
    """How an image smaller than a tile is padded, in NumPy's terms."""
    pad_value: Real32 = 0.0
    """Value of the padding for ``pad_mode="constant"``, in the range of what is tiled: pixel values as
    they are for a bare network, prepared ones for a segmenter."""

    @property
    def tile_shape(self) -> tuple[int, int]:
        """Tile height and width in px, (y, x); a SettingError where only a network can tell."""
        if self.tile_size == "auto":
            raise self._invalid(
                "tile_size",
                "be known in px",
                "It depends on network and image: use plan or tiled_predict, or give px.",
                got="auto",
            )
        return pair_of(self.tile_size)

    @property
    def overlap_px(self) -> tuple[int, int]:
        """Least overlap in px, (y, x); a SettingError where only a network can tell."""
        if self.overlap == "exact":
            raise self._invalid(
                "overlap",
                "be known in px",
                "Only a network tells what is exact: use plan or tiled_predict, or give px.",
                got="exact",
            )
        if isinstance(self.overlap, float):
            return (int(self.tile_shape[0] * self.overlap), int(self.tile_shape[1] * self.overlap))
        return pair_of(self.overlap)

    @property
    def alignment_px(self) -> tuple[int, int]:
        """Divisor of all tile origins in px, (y, x)."""
        return pair_of(self.alignment)

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, data: Any) -> Any:
        given = data.items() if isinstance(data, dict) else ()
        words = {key: word for key, word in given if isinstance(word, str)}
        if words.get("overlap") == "exact" and "blend" not in data:
            data = data | {"blend": "crop"}
        if words.get("tile_size") == "auto" and "overlap" not in data:
            data = data | {"overlap": _PIXELS_WITH_AUTO}
        return data

    def _check(self) -> None:
        if self.overlap == "exact" and self.blend != "crop":
            raise self._invalid(
                "blend",
                'be crop with overlap="exact"',
                "Any other blend takes px from tile ends: use crop, or give the overlap in px.",
            )
        if self.tile_size == "auto":
            return
        overlaps = (0, 0) if self.overlap == "exact" else self.overlap_px
        for axis, tile, overlap, step in zip("yx", self.tile_shape, overlaps, self.alignment_px, strict=True):
            if overlap >= tile:
                raise self._invalid(
                    "overlap",
                    f"be in [0, tile) with tile={tile} along {axis}",
                    f"Use at most {tile - 1}.",
                    got=overlap,
                )
            if tile - overlap < step:
                raise self._invalid(
                    "overlap",
                    f"leave a step of at least alignment={step} px with tile={tile} along {axis}",
                    f"Use at most {tile - step}." if tile >= step else f"Use a tile of at least {step} px.",
                    got=overlap,
                )
