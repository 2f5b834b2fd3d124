"""Metadata of images: size of a px, OME-XML, OME-Zarr."""

from __future__ import annotations

import html
import math
import re
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

_MICROMETRES = {
    "pm": 1e-6, "å": 1e-4, "angstrom": 1e-4, "nm": 1e-3, "nanometer": 1e-3, "μm": 1.0, "um": 1.0,
    "micron": 1.0, "micrometer": 1.0, "mm": 1e3, "millimeter": 1e3, "cm": 1e4, "centimeter": 1e4,
    "m": 1e6, "meter": 1e6, "in": 25400.0, "inch": 25400.0, "inche": 25400.0,
}  # fmt: skip
_OME_NAMESPACE = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
_OME_TYPES = {"uint8": "uint8", "uint16": "uint16", "uint32": "uint32", "float32": "float"}
_RESOLUTION_UNITS = {2: 25400.0, 3: 1e4}  # µm of an inch and of a centimetre, by ResolutionUnit
_PRINT = (71.5, 600.5)  # px per inch of a page to print; nothing to do with the scene


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
        """Return the size of a px of a smaller copy.

        Parameters
        ----------
        down, across : float
            Px of this image per px of the copy, along y and x.

        Returns
        -------
        PixelSize
            The larger px.
        """
        return PixelSize(self.y * down, self.x * across)

    def is_near(self, other: PixelSize, share: float) -> bool:
        """Say whether another size differs by no more than a share.

        Parameters
        ----------
        other : PixelSize
            The other size.
        share : float
            The largest difference, for example 0.02.

        Returns
        -------
        bool
            Along both axes.
        """
        return all(abs(a / b - 1) <= share for a, b in ((self.y, other.y), (self.x, other.x)))

    def __str__(self) -> str:
        return f"{self.y:.4g} µm" if self.y == self.x else f"{self.y:.4g} x {self.x:.4g} µm"


def ome_pixels(description: str) -> list[dict[str, str]]:
    """List the attributes of each OME ``Pixels`` element; no parser, since XML can exhaust memory."""
    blocks = re.findall(r"<(?:\w+:)?Pixels\b([^>]*)>", description)
    found = [re.findall(r"(\w+)\s*=\s*[\"']([^\"']*)[\"']", block) for block in blocks]
    return [{name: html.unescape(value) for name, value in block} for block in found]


def is_ome(description: str) -> bool:
    """Say whether a description is OME-XML."""
    return "<OME" in description or ":OME" in description


def pixel_size_of(
    description: str, resolution: tuple[float, float], unit: int, image: int | None
) -> PixelSize | None:
    """Find the size of a px in a TIFF's description and resolution tags; `image` counts those of OME."""
    images = ome_pixels(description)
    number = 0 if len(images) == 1 else image
    pixels = images[number] if number is not None and number < len(images) else {}
    if "PhysicalSizeX" in pixels and "PhysicalSizeY" in pixels:
        return _of_ome(pixels)
    aperio = re.search(r"\bMPP\s*=\s*([0-9.]+)", description)
    if description.startswith("Aperio") and aperio:
        factor = _aperio_factor(description)
        return _checked_size(_number(aperio[1]) * factor, _number(aperio[1]) * factor)
    if min(resolution) <= 0:
        return None
    factor = _RESOLUTION_UNITS.get(unit, 0.0)
    if description.startswith("ImageJ="):
        named = re.search(r"^unit=(.*)$", description, re.MULTILINE)
        factor = _micrometres(named[1]) if named else 0.0
    elif factor and any(_is_print(one, factor) for one in resolution):
        return None
    return _checked_size(factor / resolution[0], factor / resolution[1])


def _is_print(resolution: float, unit: float) -> bool:
    """Say whether px per unit are those of a printed page, or the 1 of a writer that knows none."""
    return resolution == 1 or _PRINT[0] <= resolution * _RESOLUTION_UNITS[2] / unit <= _PRINT[1]


def _aperio_factor(description: str) -> float:
    """Read how many times smaller a page is than the scan, whose px size the description gives."""
    sizes = re.search(r"(\d+)x\d+.*?->\s*(\d+)x\d+", description)
    return int(sizes[1]) / max(1, int(sizes[2])) if sizes else 1.0


def _micrometres(unit: str) -> float:
    """Find how many µm a unit has, in any spelling; 0 where it is no length."""
    text = re.sub(r"\\u([0-9a-fA-F]{4})", lambda code: chr(int(code[1], 16)), unit).strip()
    text = unicodedata.normalize("NFKC", text.replace("Â", "")).replace("&micro;", "μ")  # µ becomes μ
    text = text.lower().replace("metre", "meter")
    return _MICROMETRES.get(text, _MICROMETRES.get(text.removesuffix("s"), 0.0))


def pixel_size_of_scale(scale: tuple[float, float], units: tuple[str, str]) -> PixelSize | None:
    """Convert lengths with units to a px size."""
    return _checked_size(scale[0] * _micrometres(units[0]), scale[1] * _micrometres(units[1]))


def _of_ome(pixels: dict[str, str]) -> PixelSize | None:
    lengths = [
        _number(pixels[f"PhysicalSize{axis}"]) * _micrometres(pixels.get(f"PhysicalSize{axis}Unit", "µm"))
        for axis in "YX"
    ]
    return _checked_size(lengths[0], lengths[1])


def _checked_size(y: float, x: float) -> PixelSize | None:
    return PixelSize(y, x) if all(math.isfinite(length) and length > 0 for length in (y, x)) else None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


@dataclass(frozen=True, slots=True)
class ImageMetadata:
    """The metadata that are written with an image."""

    levels: list[tuple[int, int]]  # height and width of each level in px
    channels: tuple[int, ...]  # (K,), or () for an image (H, W)
    dtype: np.dtype[Any]
    pixel_size: PixelSize | None  # None is written as unknown
    names: tuple[str, ...]  # name of each channel; may be empty
    provenance: Mapping[str, str]  # text by name

    @property
    def shape(self) -> tuple[int, ...]:
        """(H, W) or (H, W, K)."""
        return (*self.levels[0], *self.channels)

    @property
    def axes(self) -> list[tuple[str, str]]:
        """Names and types of the axes, the channels first."""
        return [*[("c", "channel")][: len(self.channels)], ("y", "space"), ("x", "space")]

    @property
    def notes(self) -> dict[str, str]:
        """The provenance, with an entry where the px size is unknown."""
        unknown = {} if self.pixel_size else {"pixel size": "unknown"}
        return {**{str(key): str(value) for key, value in self.provenance.items()}, **unknown}

    def ome_xml(self) -> bytes:
        """Return the OME-XML of an OME-TIFF, in ASCII, as TIFF requires."""
        count = self.channels[0] if self.channels else 1
        height, width = self.levels[0]
        root = ET.Element("OME", {"xmlns": _OME_NAMESPACE, "Creator": "tiledseg"})
        image = ET.SubElement(root, "Image", {"ID": "Image:0", "Name": "map"})
        sizes = {"SizeX": width, "SizeY": height, "SizeC": count, "SizeZ": 1, "SizeT": 1}
        attributes = {"ID": "Pixels:0", "DimensionOrder": "XYCZT", "Type": _OME_TYPES[self.dtype.name]}
        attributes |= {"BigEndian": "false"} | {name: str(size) for name, size in sizes.items()}
        if self.pixel_size:
            for axis, size in (("X", self.pixel_size.x), ("Y", self.pixel_size.y)):
                attributes |= {f"PhysicalSize{axis}": repr(size), f"PhysicalSize{axis}Unit": "µm"}
        pixels = ET.SubElement(image, "Pixels", attributes)
        for channel in range(count):
            name = {"Name": _printable(self.names[channel])} if channel < len(self.names) else {}
            ET.SubElement(pixels, "Channel", {"ID": f"Channel:0:{channel}", "SamplesPerPixel": "1"} | name)
        for channel in range(count):
            ET.SubElement(
                pixels, "TiffData", {"IFD": f"{channel}", "FirstC": f"{channel}", "PlaneCount": "1"}
            )
        if self.notes:
            _annotate(root, image, self.notes)
        text: bytes = ET.tostring(root, encoding="us-ascii", xml_declaration=True)
        return text

    def ome_zarr(self) -> dict[str, Any]:
        """Return the attributes of an OME-Zarr image of version 0.5."""
        unit = {"unit": "micrometer"} if self.pixel_size else {}
        axes = [{"name": name, "type": kind} | (unit if kind == "space" else {}) for name, kind in self.axes]
        size = self.pixel_size or PixelSize(1.0, 1.0)
        datasets = []
        for level, (height, width) in enumerate(self.levels):
            px = size.shrunk(self.levels[0][0] / height, self.levels[0][1] / width)
            scale = {"type": "scale", "scale": [1.0] * len(self.channels) + [px.y, px.x]}
            datasets.append({"path": str(level), "coordinateTransformations": [scale]})
        image = {"name": "map", "axes": axes, "datasets": datasets}
        ome: dict[str, Any] = {"version": "0.5", "multiscales": [image]}
        if self.names and self.channels:
            ome["omero"] = {"channels": [{"label": name, "active": True} for name in self.names]}
        return {"ome": ome, "tiledseg": self.notes}


def _annotate(root: ET.Element, image: ET.Element, notes: Mapping[str, str]) -> None:
    """Add the provenance as a map annotation."""
    ET.SubElement(image, "AnnotationRef", {"ID": "Annotation:0"})
    parent = ET.SubElement(root, "StructuredAnnotations")
    attributes = {"ID": "Annotation:0", "Namespace": "tiledseg/provenance"}
    value = ET.SubElement(ET.SubElement(parent, "MapAnnotation", attributes), "Value")
    for name, text in notes.items():
        ET.SubElement(value, "M", {"K": _printable(name)}).text = _printable(text)


def _printable(text: str) -> str:
    """Escape characters that XML cannot contain, for example control characters."""
    return "".join(mark if mark.isprintable() else ascii(mark)[1:-1] for mark in text)
