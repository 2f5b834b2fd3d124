"""Objects as a zip of ImageJ regions."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from tiledseg._lazy import extra
from tiledseg._validate import invalid, named, path_text
from tiledseg.errors import SettingError
from tiledseg.export.batches import ObjectFile, Style, pass_on, shape_of
from tiledseg.objects import Corners, simplified
from tiledseg.plots import PALETTE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tiledseg._types import AnyArray, PathLike, Source
    from tiledseg.objects import ObjectBatch, Objects

_LONGEST = 60  # marks of a class in the name of a region, which is also that of a file
_LARGEST = 1 << 24  # px: float32 counts exactly up to here
_DATE = (1980, 1, 1, 0, 0, 0)  # the same bytes each time
_MOVE, _LINE, _CLOSE = 0.0, 1.0, 4.0  # segments of a composite region
_MOST_GROUPS = 255


def write_roi(  # noqa: PLR0913  what all exports have in common
    path: PathLike,
    objects: Objects | Source,
    *,
    names: Sequence[str] = ("foreground",),
    instances: bool = False,
    cell_px: int = 1,
    tolerance: float = 0.0,
    scale: tuple[float, float] = (1.0, 1.0),
    progress: bool = False,
) -> int:
    """Write objects as a zip of ImageJ regions, which ImageJ and Fiji open in the ROI Manager.

    Each object is a polygon along the edges of its px, or a composite where it has holes or several parts.
    Its name is that of its class and its number; its colour and its group are those of its class.

    Parameters
    ----------
    path : path
        File to write, whole or not at all; its suffix is ``.zip``.
    objects : Objects or array
        What `segment` and `label_objects` return; or labels (H, W), boolean or integer, where 0 is the
        background: an array or anything that is read by slicing.
    names : sequence of str
        Names of the classes 1, 2, ….
    instances : bool
        Whether each label of a map is one object, of the first class. By default labels are classes, and
        each connected area is an object.
    cell_px : int
        Smaller objects are left out, in px of the map.
    tolerance : float
        By how many px a simplified outline may differ from that of the px; 0 keeps each corner.
    scale : tuple of float
        Px of level 0 for each px of the map, (y, x).
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    int
        Number of objects that were written.

    Raises
    ------
    ArrayError
        If `objects` is a map that does not hold labels.
    SettingError
        If roifile is not installed (the extra ``roi`` installs it), the image has a side of more than 2^24
        px, a class has no name, or an argument is of another type or out of its range.
    FileError
        If the file cannot be written.
    """
    style = Style.of(names, "", tolerance, scale)
    if not path_text(path).lower().endswith(".zip"):
        must, fix = "have the suffix .zip", "A .roi file holds one region."
        raise invalid(SettingError, "path", must=must, got=named(path), fix=fix)
    with RoiWriter(path, style, shape_of(objects)) as writer:
        pass_on(objects, [writer], instances=instances, cell_px=cell_px, progress=progress)
    return len(writer)


class RoiWriter(ObjectFile):
    """Writes objects as a zip of regions."""

    def __init__(self, path: PathLike, style: Style, shape: tuple[int, int]) -> None:
        self._roifile = extra("roifile", "roi")
        super().__init__(path, style)
        longest = max(px * factor for px, factor in zip(shape, style.scale, strict=True))
        if longest > _LARGEST:
            fix = "Write GeoJSON."
            raise invalid(
                SettingError, "roi", must=f"have at most {_LARGEST} px a side", got=longest, fix=fix
            )

    def add(self, batch: ObjectBatch) -> None:
        """Take some objects."""
        outlines = simplified(Corners.of(batch).rings(), self._style.tolerance)
        points = np.stack([outlines.x * self._style.scale[1], outlines.y * self._style.scale[0]], axis=1)
        points = points.astype(np.float32)
        starts = outlines.start.tolist()
        of_ring = outlines.number[outlines.part]
        first = np.searchsorted(of_ring, np.arange(len(batch.first))).tolist()
        labels, parts = batch.table["label"], []
        for place, (label, kind) in enumerate(
            zip(labels.tolist(), self._style.classes_of(batch), strict=True)
        ):
            rings = [points[starts[one] : starts[one + 1]] for one in range(first[place], first[place + 1])]
            name = f"{_safe(self._style.names[kind - 1])}-{label:06d}"
            parts.append(name.encode() + b"\0" + self._region(rings, name, kind).tobytes())
        self._objects.add(labels, parts)

    def _write(self, file: BinaryIO) -> None:
        with zipfile.ZipFile(file, "w") as archive:
            for _, part in self._objects.parts():
                name, _, region = part.partition(b"\0")
                entry = zipfile.ZipInfo(f"{name.decode()}.roi", _DATE)
                archive.writestr(entry, region, zipfile.ZIP_DEFLATED, 1)

    def _region(self, rings: list[AnyArray], name: str, kind: int) -> Any:  # roifile has no types here
        kinds = self._roifile
        if len(rings) == 1:
            region = kinds.ImagejRoi.frompoints(_corners(rings[0]), name=name)
            region.roitype = kinds.ROI_TYPE.POLYGON
        else:
            whole = np.concatenate(rings)
            region = kinds.ImagejRoi()
            region.roitype, region.name = kinds.ROI_TYPE.RECT, name
            left, top, right, bottom = map(int, (*np.floor(whole.min(0)), *np.ceil(whole.max(0))))
            region.left, region.top, region.right, region.bottom = left, top, right, bottom
            region.multi_coordinates = _path(rings)
            region.shape_roi_size = len(region.multi_coordinates)
        region.version = 228  # the first that knows groups
        region.group = min(kind, _MOST_GROUPS)
        region.stroke_color = bytes((255, *PALETTE[(kind - 1) % len(PALETTE)]))
        return region


def _corners(ring: AnyArray) -> AnyArray:
    """Return whole numbers where ImageJ's whole numbers suffice."""
    whole = np.rint(ring)
    return whole.astype(np.int32) if (whole == ring).all() and ring.max() < 1 << 15 else ring


def _path(rings: list[AnyArray]) -> AnyArray:
    """Write rings as a path of segments."""
    parts = []
    for ring in rings:
        kinds = np.full((len(ring), 1), _LINE, np.float32)
        kinds[0] = _MOVE
        parts += [np.concatenate([kinds, ring], axis=1).ravel(), np.array([_CLOSE], np.float32)]
    return np.concatenate(parts)


def _safe(name: str) -> str:
    """Replace what is not part of a file name on every system."""
    safe = (mark if mark.isprintable() and mark not in '<>:"/\\|?*' else "_" for mark in name[:_LONGEST])
    text = "".join(safe)
    return text.encode("utf-8", "replace").decode().strip(" .") or "class"
