"""How large a px is, read off what microscopes and their programs write beside the pixels."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

__all__ = ["PixelSize", "pixel_size_of", "pixel_size_of_scale"]

_MICROMETRES = {
    "nm": 1e-3, "nanometer": 1e-3, "µm": 1.0, "μm": 1.0, "um": 1.0, "micron": 1.0, "micrometer": 1.0,
    "\\u00b5m": 1.0, "mm": 1e3, "millimeter": 1e3, "cm": 1e4, "centimeter": 1e4, "m": 1e6, "meter": 1e6,
}  # fmt: skip
_PER_CENTIMETRE = 3  # ResolutionUnit; inches are left out: 72 of them per px stand in files of no scale


@dataclass(frozen=True, slots=True)
class PixelSize:
    """Height and width of a px.

    Attributes
    ----------
    y, x : float
        In µm, positive.

    Examples
    --------
    >>> PixelSize(0.25, 0.25).shrunk(2.0, 2.0)
    PixelSize(y=0.5, x=0.5)
    """

    y: float
    x: float

    def shrunk(self, down: float, across: float) -> PixelSize:
        """Give the size of a px of a smaller copy.

        Parameters
        ----------
        down, across : float
            How many px of this one a px of the copy is, along y and x.

        Returns
        -------
        PixelSize
            The larger px.
        """
        return PixelSize(self.y * down, self.x * across)


def pixel_size_of(
    pixels: dict[str, str], description: str, resolution: tuple[float, float], unit: int
) -> PixelSize | None:
    """Find the size of a px in a TIFF's metadata."""
    if "PhysicalSizeX" in pixels and "PhysicalSizeY" in pixels:
        return _of_ome(pixels)
    aperio = re.search(r"\bMPP\s*=\s*([0-9.]+)", description)
    if description.startswith("Aperio") and aperio:
        return _sane(_number(aperio[1]), _number(aperio[1]))
    factor = _MICROMETRES["cm"] if unit == _PER_CENTIMETRE else 0.0
    if description.startswith("ImageJ="):
        named = re.search(r"^unit=(.*)$", description, re.MULTILINE)
        factor = _MICROMETRES.get(named[1].strip(), 0.0) if named else 0.0
    if min(resolution) <= 0:
        return None
    return _sane(factor / resolution[0], factor / resolution[1])


def pixel_size_of_scale(scale: tuple[float, float], units: tuple[str, str]) -> PixelSize | None:
    """Make a px size of lengths with units."""
    factors = [_MICROMETRES.get(unit.replace("metre", "meter"), 0.0) for unit in units]
    return _sane(scale[0] * factors[0], scale[1] * factors[1])


def _of_ome(pixels: dict[str, str]) -> PixelSize | None:
    sides = [
        _number(pixels[f"PhysicalSize{axis}"])
        * _MICROMETRES.get(pixels.get(f"PhysicalSize{axis}Unit", "µm"), 0)
        for axis in "YX"
    ]
    return _sane(sides[0], sides[1])


def _sane(y: float, x: float) -> PixelSize | None:
    return PixelSize(y, x) if all(math.isfinite(side) and side > 0 for side in (y, x)) else None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
