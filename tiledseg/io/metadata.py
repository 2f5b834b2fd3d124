"""Metadata of images: size of a px, OME-XML, OME-Zarr."""

from __future__ import annotations

import html
import math
import re
import struct
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import numpy as np

from tiledseg._validate import invalid, real_number
from tiledseg.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Mapping

_MICROMETRES = {
    "pm": 1e-6, "å": 1e-4, "angstrom": 1e-4, "nm": 1e-3, "nanometer": 1e-3, "μm": 1.0, "um": 1.0,
    "micron": 1.0, "micrometer": 1.0, "mm": 1e3, "millimeter": 1e3, "cm": 1e4, "centimeter": 1e4,
    "m": 1e6, "meter": 1e6, "in": 25400.0, "inch": 25400.0, "inche": 25400.0, "picometer": 1e-6,
    "dm": 1e5, "decimeter": 1e5, "thou": 25.4, "ft": 304800.0, "foot": 304800.0, "yard": 914400.0,
}  # fmt: skip
_SPACING = re.compile(  # mm down and across, of the first level
    r"DICOM_PIXEL_SPACING\"[^>]*>(?:\s|\"|&quot;)*([0-9.eE+-]+)(?:\s|\"|&quot;)+([0-9.eE+-]+)"
)
_OME_NAMESPACE = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
_OME_TYPES = {"uint8": "uint8", "uint16": "uint16", "uint32": "uint32", "float32": "float"}
_RESOLUTION_UNITS = {2: 25400.0, 3: 1e4}  # µm of an inch and of a centimetre, by ResolutionUnit
_OTHER_UNITS = {4: 1e3, 5: 1.0}  # mm and µm, which some writers state
_SCALE, _TIEPOINTS, _MATRIX, _GEO_KEYS = 33550, 33922, 34264, 34735
_ASCII, _SHORT, _DOUBLE = 2, 3, 12  # types of TIFF
GEO_TYPES = {_SCALE: _DOUBLE, _TIEPOINTS: _DOUBLE, _MATRIX: _DOUBLE, _GEO_KEYS: _SHORT, 34736: _DOUBLE}
GEO_TYPES |= {34737: _ASCII}
"""Types of the tags of a GeoTIFF by their codes."""
_ORIENTATION = 0x0112  # a tag of Exif, as of TIFF
_RASTER_TYPE, _IS_POINT = 1025, 2
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


def pixel_size_from(value: object) -> PixelSize | None:
    """Read a px size in µm that a user gives: a PixelSize, one number, or two, (y, x)."""
    if value is None:
        return value
    must, fix = "be µm per px above 0: one number, or two for y and x", "Give 0.25, for example."
    both = value if isinstance(value, tuple | list) else (value, value)
    both = (value.y, value.x) if isinstance(value, PixelSize) else both
    if len(both) != 2:
        raise invalid(SettingError, "pixel_size", must=must, got=value, fix=fix)
    y, x = (real_number("pixel_size", one, fix) for one in both)
    if min(y, x) <= 0:
        raise invalid(SettingError, "pixel_size", must=must, got=value, fix=fix)
    return PixelSize(y, x)


@dataclass(frozen=True, slots=True)
class Placement:
    """Where an image is: on earth, or in the space of a larger one.

    Attributes
    ----------
    origin : tuple of float or None
        Where its first px begins, (y, x) in µm, as OME-Zarr states it by translations.
    geo : tuple
        The tags of a GeoTIFF that state its place on earth: code, type and values of each, for px of the
        level that was read.
    level_scale : tuple of float or None
        Px of level 0 for each px, (y, x), where a smaller level of an image was read.
    """

    origin: tuple[float, float] | None = None
    geo: tuple[tuple[int, int, str | tuple[float, ...]], ...] = ()
    level_scale: tuple[float, float] | None = None


def ome_pixels(description: str) -> list[dict[str, str]]:
    """List the attributes of each OME ``Pixels`` element; no parser, since XML can exhaust memory."""
    return [attributes_of(block) for block in re.findall(r"<(?:\w+:)?Pixels\b([^>]*)>", description)]


def attributes_of(element: str) -> dict[str, str]:
    """Read the attributes of an XML element."""
    found = re.findall(r"(\w+)\s*=\s*[\"']([^\"']*)[\"']", element)
    return {name: html.unescape(value) for name, value in found}


def exif_orientation(exif: bytes) -> int:
    """Find the orientation in an Exif block that begins with its TIFF header."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(f"{order}I", exif, 4)
        (count,) = struct.unpack_from(f"{order}H", exif, start)
        for at in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, _, value = struct.unpack_from(f"{order}HHIH", exif, at)
            if (tag, kind) == (_ORIENTATION, _SHORT):
                return value if 1 <= value <= 8 else 1
    except struct.error:  # a damaged block has no orientation
        pass
    return 1


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
        return _checked_size(number_of(aperio[1]) * factor, number_of(aperio[1]) * factor)
    philips = _SPACING.search(description) if "<DataObject" in description else None
    if philips:
        return _checked_size(number_of(philips[1]) * 1e3, number_of(philips[2]) * 1e3)
    ventana = re.search(r"<iScan\b[^>]*\bScanRes\s*=\s*[\"']([0-9.]+)", description)
    if ventana:
        return _checked_size(number_of(ventana[1]), number_of(ventana[1]))
    factor = (_RESOLUTION_UNITS | _OTHER_UNITS).get(unit, 0.0)
    if description.startswith("ImageJ="):
        named = re.search(r"^unit=(.*)$", description, re.MULTILINE)
        factor = micrometres(named[1]) if named else 0.0
        if own := re.search(r"^yunit=(.*)$", description, re.MULTILINE):
            resolution = (resolution[0] * factor / (micrometres(own[1]) or math.inf), resolution[1])
        if factor not in _RESOLUTION_UNITS.values():  # in which a print may be stated
            return _checked_size(*(factor / one if one > 0 else 0.0 for one in resolution))
    return pixel_size_of_density(resolution, factor)


def pixel_size_of_density(density: tuple[float, float], unit: float) -> PixelSize | None:
    """Convert px per unit, of so many µm, to a px size; None where they are those of a print."""
    if min(density) <= 0 or not unit or any(_is_print(one, unit) for one in density):
        return None
    return _checked_size(unit / density[0], unit / density[1])


def _is_print(resolution: float, unit: float) -> bool:
    """Say whether px per unit are those of a printed page, or the 1 of a writer that knows none."""
    return resolution == 1 or _PRINT[0] <= resolution * _RESOLUTION_UNITS[2] / unit <= _PRINT[1]


def _aperio_factor(description: str) -> float:
    """Read how many times smaller a page is than the scan, whose px size the description gives."""
    sizes = re.search(r"(\d+)x\d+.*?->\s*(\d+)x\d+", description)
    return int(sizes[1]) / max(1, int(sizes[2])) if sizes else 1.0


def micrometres(unit: str) -> float:
    """Find how many µm a unit has, in any spelling; 0 where it is no length."""
    text = re.sub(r"\\u([0-9a-fA-F]{4})", lambda code: chr(int(code[1], 16)), unit).strip()
    text = unicodedata.normalize("NFKC", text.replace("Â", "")).replace("&micro;", "μ")  # µ becomes μ
    text = text.lower().replace("metre", "meter")
    return _MICROMETRES.get(text, _MICROMETRES.get(text.removesuffix("s"), 0.0))


def geo_tags(
    tags: Mapping[int, Any], down: float, across: float
) -> tuple[tuple[int, int, str | tuple[float, ...]], ...]:
    """Collect the tags of a GeoTIFF, for a copy that is smaller by two factors (OGC 19-008r4, 1.1)."""
    found = {code: tags[code] for code in GEO_TYPES if tags.get(code) is not None}
    if _GEO_KEYS not in found or not {_SCALE, _MATRIX, _TIEPOINTS} & set(found):
        return ()
    keys = np.atleast_1d(found[_GEO_KEYS]).reshape(-1, 4)
    points = any(int(key[0]) == _RASTER_TYPE and int(key[3]) == _IS_POINT for key in keys)
    half = 0.5 if points else 0.0  # px (0, 0) is its centre, or its corner
    factors, shift = np.array([across, down]), half * (np.array([across, down]) - 1)
    if _SCALE in found:
        found[_SCALE] = np.array(found[_SCALE], float) * [across, down, 1]
    if _TIEPOINTS in found:
        points_of = np.array(found[_TIEPOINTS], float).reshape(-1, 6)
        points_of[:, :2] = (points_of[:, :2] - shift) / factors
        found[_TIEPOINTS] = points_of.ravel()
    if _MATRIX in found:
        matrix = np.array(found[_MATRIX], float).reshape(4, 4)
        matrix[:, 3] += matrix[:, 0] * shift[0] + matrix[:, 1] * shift[1]
        matrix[:, :2] *= factors
        found[_MATRIX] = matrix.ravel()
    return tuple(
        (code, GEO_TYPES[code], value if isinstance(value, str) else tuple(np.atleast_1d(value).tolist()))
        for code, value in sorted(found.items())
    )


def pixel_size_of_scale(scale: tuple[float, float], units: tuple[str, str]) -> PixelSize | None:
    """Convert lengths with units to a px size."""
    return _checked_size(scale[0] * micrometres(units[0]), scale[1] * micrometres(units[1]))


def _of_ome(pixels: dict[str, str]) -> PixelSize | None:
    lengths = [
        number_of(pixels[f"PhysicalSize{axis}"]) * micrometres(pixels.get(f"PhysicalSize{axis}Unit", "µm"))
        for axis in "YX"
    ]
    return _checked_size(lengths[0], lengths[1])


def _checked_size(y: float, x: float) -> PixelSize | None:
    return PixelSize(y, x) if all(math.isfinite(length) and length > 0 for length in (y, x)) else None


def number_of(text: str) -> float:
    """Read a number; NaN where the text is none."""
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
    placement: Placement | None = None
    title: str = "map"  # of the image, where a viewer shows it

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
        image = ET.SubElement(root, "Image", {"ID": "Image:0", "Name": _printable(self.title)})
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
            others = len(self.channels)
            steps = [{"type": "scale", "scale": [1.0] * others + [px.y, px.x]}]
            if self.placement and self.placement.origin and self.pixel_size:
                steps.append(
                    {"type": "translation", "translation": [0.0] * others + [*self.placement.origin]}
                )
            datasets.append({"path": str(level), "coordinateTransformations": steps})
        image = {"name": _printable(self.title), "axes": axes, "datasets": datasets}
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
