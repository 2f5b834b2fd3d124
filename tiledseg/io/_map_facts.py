"""What a map that is written says of itself, in OME-XML and in OME-Zarr's JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from tiledseg.io._pixel_size import PixelSize

__all__ = ["MapFacts"]

_SPACE = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
_TYPES = {"uint8": "uint8", "uint16": "uint16", "uint32": "uint32", "float32": "float"}


@dataclass(frozen=True, slots=True)
class MapFacts:
    """A map's geometry and where it comes from."""

    levels: list[tuple[int, int]]  # height and width of each level in px
    channels: tuple[int, ...]  # number of channels, or nothing
    dtype: np.dtype[Any]  # of the pixels
    pixel_size: PixelSize | None  # none where it is not known, which is then said
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
        """The provenance, and that the px size is not known where it is not."""
        unknown = {} if self.pixel_size else {"pixel size": "unknown"}
        return {**{str(key): str(value) for key, value in self.provenance.items()}, **unknown}

    def ome_xml(self) -> bytes:
        """Write the OME-XML of an OME-TIFF, in ASCII as TIFF wants it."""
        count = self.channels[0] if self.channels else 1
        height, width = self.levels[0]
        root = ET.Element("OME", {"xmlns": _SPACE, "Creator": "tiledseg"})
        image = ET.SubElement(root, "Image", {"ID": "Image:0", "Name": "map"})
        sizes = {"SizeX": width, "SizeY": height, "SizeC": count, "SizeZ": 1, "SizeT": 1}
        attributes = {"ID": "Pixels:0", "DimensionOrder": "XYCZT", "Type": _TYPES[self.dtype.name]}
        attributes |= {"BigEndian": "false"} | {name: str(size) for name, size in sizes.items()}
        if self.pixel_size:
            for axis, size in (("X", self.pixel_size.x), ("Y", self.pixel_size.y)):
                attributes |= {f"PhysicalSize{axis}": repr(size), f"PhysicalSize{axis}Unit": "µm"}
        pixels = ET.SubElement(image, "Pixels", attributes)
        for channel in range(count):
            named = {"Name": _printable(self.names[channel])} if channel < len(self.names) else {}
            ET.SubElement(pixels, "Channel", {"ID": f"Channel:0:{channel}", "SamplesPerPixel": "1"} | named)
        for channel in range(count):
            places = {"IFD": str(channel), "FirstC": str(channel), "PlaneCount": "1"}
            ET.SubElement(pixels, "TiffData", places)
        if self.notes:
            _annotate(root, image, self.notes)
        text: bytes = ET.tostring(root, encoding="us-ascii", xml_declaration=True)
        return text

    def ome_zarr(self) -> dict[str, Any]:
        """Give the attributes of an OME-Zarr image of version 0.5."""
        known = self.pixel_size is not None
        unit = {"unit": "micrometer"} if known else {}
        axes = [{"name": name, "type": kind} | (unit if kind == "space" else {}) for name, kind in self.axes]
        y, x = (self.pixel_size.y, self.pixel_size.x) if self.pixel_size else (1.0, 1.0)
        datasets = []
        for level, (height, width) in enumerate(self.levels):
            down, across = self.levels[0][0] / height, self.levels[0][1] / width
            scale = [1.0] * len(self.channels) + [y * down, x * across]
            datasets.append(
                {"path": str(level), "coordinateTransformations": [{"type": "scale", "scale": scale}]}
            )
        image = {"name": "map", "axes": axes, "datasets": datasets}
        ome: dict[str, Any] = {"version": "0.5", "multiscales": [image]}
        if self.names and self.channels:
            ome["omero"] = {"channels": [{"label": name, "active": True} for name in self.names]}
        return {"ome": ome, "tiledseg": self.notes}


def _annotate(root: ET.Element, image: ET.Element, notes: Mapping[str, str]) -> None:
    """Add the provenance as a map annotation."""
    ET.SubElement(image, "AnnotationRef", {"ID": "Annotation:0"})
    holder = ET.SubElement(root, "StructuredAnnotations")
    attributes = {"ID": "Annotation:0", "Namespace": "tiledseg/provenance"}
    value = ET.SubElement(ET.SubElement(holder, "MapAnnotation", attributes), "Value")
    for name, text in notes.items():
        ET.SubElement(value, "M", {"K": _printable(name)}).text = _printable(text)


def _printable(text: str) -> str:
    """Escape what XML cannot hold, a control character in a file name, say."""
    return "".join(mark if mark.isprintable() else ascii(mark)[1:-1] for mark in text)
