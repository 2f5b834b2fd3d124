"""Pictures: labels and overlays as arrays, and figures of matplotlib as PNG."""

from tiledseg.plots.figures import new_figure, png_of
from tiledseg.plots.render import (
    ERROR_COLOURS,
    PALETTE,
    Colour,
    Rgb,
    as_rgb,
    colourise,
    error_overlay,
    outlined,
    overlay,
)

__all__ = [
    "ERROR_COLOURS",
    "PALETTE",
    "Colour",
    "Rgb",
    "as_rgb",
    "colourise",
    "error_overlay",
    "new_figure",
    "outlined",
    "overlay",
    "png_of",
]
