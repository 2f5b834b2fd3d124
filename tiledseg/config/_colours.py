"""Colours in text."""

from __future__ import annotations

import re
from typing import Annotated, TypeAlias

from pydantic import AfterValidator

from tiledseg._validate import invalid
from tiledseg.errors import SettingError

__all__ = ["ColourName", "rgb_of"]

_NAMES = {
    "black": "#000000", "silver": "#c0c0c0", "gray": "#808080", "grey": "#808080", "white": "#ffffff",
    "maroon": "#800000", "red": "#ff0000", "purple": "#800080", "fuchsia": "#ff00ff", "magenta": "#ff00ff",
    "green": "#008000", "lime": "#00ff00", "olive": "#808000", "yellow": "#ffff00", "navy": "#000080",
    "blue": "#0000ff", "teal": "#008080", "aqua": "#00ffff", "cyan": "#00ffff", "orange": "#ffa500",
}  # fmt: skip
_HEX = re.compile(r"#[0-9a-f]{6}")


def rgb_of(colour: str) -> tuple[int, int, int]:
    """Read a colour."""
    spelt = _NAMES.get(colour.lower(), colour.lower())
    if not _HEX.fullmatch(spelt):
        fix = f"Known are {', '.join(_NAMES)}."
        raise invalid(SettingError, "colour", must="be a name or #rrggbb", got=colour, fix=fix)
    return int(spelt[1:3], 16), int(spelt[3:5], 16), int(spelt[5:7], 16)


def _known(colour: str) -> str:
    rgb_of(colour)
    return colour


ColourName: TypeAlias = Annotated[str, AfterValidator(_known)]
"""A colour in text."""
