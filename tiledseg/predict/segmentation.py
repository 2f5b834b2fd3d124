"""One image to objects: labels, a table, outlines; as a result that shows, plots and saves itself."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tiledseg._notebook import paragraph, picture, table
from tiledseg._storage import new_folder, write_text
from tiledseg._validate import counted, whole_number
from tiledseg.errors import SettingError
from tiledseg.export import labels_of_result, write_geojson
from tiledseg.io import create_image, write_image
from tiledseg.objects import bands_of
from tiledseg.plots import PALETTE, as_picture, as_png, axes_of, every_nth, outlined
from tiledseg.predict.prediction import opened

if TYPE_CHECKING:
    from tiledseg._types import FloatArray, PathLike, Source
    from tiledseg.engine import Network
    from tiledseg.io import PixelSize
    from tiledseg.objects import Objects
    from tiledseg.plots import Rgb
    from tiledseg.predict.diagnostics import SeamReport
    from tiledseg.predict.plan import Plan

_NOTEBOOK_SIDE, _PLOT_SIDE, _FILE_SIDE = 900, 2048, 4096  # px of the longer side of a picture
_ROWS_SHOWN, _CLASSES_SHOWN = 5, 8
_COLUMNS_SHOWN = ("class", "centroid_y", "centroid_x", "area", "perimeter", "circularity", "probability_mean")
_EVEN = 0.5


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Segmentation:
    """The objects of an image, and how they were found.

    In a notebook it shows the image with outlines, the number of objects and the first rows of the table.

    Attributes
    ----------
    objects : Objects
        ``objects.table`` has a row for each object; ``objects.to_pandas()`` returns it as a data frame.
    map : ndarray or None
        The network's outputs, (H, W, K) float32, where they were asked for.
    plan : Plan
        How the image was tiled.
    seams : SeamReport or None
        How far neighbouring tiles disagree, where that was asked for.
    classes : tuple of str
        Names of the classes 1, 2, … of the objects.
    pixel_size : PixelSize or None
        Height and width of a px in µm, where it is known.
    provenance : dict
        Where the result comes from: software, image, model, settings.
    image : array or path
        The image, as it was given.
    """

    objects: Objects
    map: FloatArray | None
    plan: Plan
    seams: SeamReport | None
    classes: tuple[str, ...]
    pixel_size: PixelSize | None
    provenance: dict[str, Any]
    image: Any

    @property
    def labels(self) -> Any:  # noqa: ANN401  an array, or whatever `out` was
        """The number of the object that each px belongs to, (H, W) uint32; `out` where one was given."""
        return self.objects.labels

    def counts(self) -> dict[str, int]:
        """Count the objects of each class.

        Returns
        -------
        dict
            Number of objects by the name of their class.
        """
        found = np.bincount(np.asarray(self.objects.table["class"], int), minlength=len(self.classes) + 1)
        return {name: int(found[number]) for number, name in enumerate(self.classes, start=1)}

    def picture(self, longest: int = _FILE_SIDE) -> Rgb:
        """Draw the outlines of the objects over the image, in the colours of their classes.

        Parameters
        ----------
        longest : int
            Px of the longer side; a larger image is shown by every n-th px.

        Returns
        -------
        ndarray of uint8, shape (h, w, 3)
            The picture.
        """
        step = -(-max(self.plan.shape) // whole_number("longest", longest))
        with opened(self.image) as image:
            shown = every_nth(image, step)
        with labels_of_result(self.objects) as labels:
            numbers = every_nth(labels, step)
        kinds = np.concatenate([[0], np.asarray(self.objects.table["class"], int)])
        colours = np.array([(0, 0, 0), *PALETTE], np.uint8)[1 + (kinds - 1) % len(PALETTE)]
        return outlined(as_picture(shown), numbers, colours)

    def plot(self, ax: Any = None) -> Any:  # noqa: ANN401  matplotlib may be missing
        """Draw the image with the outlines of the objects.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Where it is drawn; axes of a new figure by default.

        Returns
        -------
        matplotlib.axes.Axes
            The axes, in px of the image.

        Raises
        ------
        SettingError
            If matplotlib is not installed; the extra ``plot`` installs it.
        """
        ax = axes_of(ax)
        height, width = self.plan.shape
        ax.imshow(self.picture(_PLOT_SIDE), extent=(0, width, height, 0))
        ax.set_title(self._counted())
        ax.set_axis_off()
        return ax

    def save(self, folder: PathLike) -> Path:
        """Write everything into a new folder, whole or not at all.

        The files are ``mask.ome.tif`` (0 and 255; of several classes the class of each px),
        ``labels.ome.tif``, ``objects.csv``, ``objects.geojson``, ``overlay.png`` (at most 4096 px a side),
        ``run.json``, and ``map.npy`` where the map was asked for.

        Parameters
        ----------
        folder : path
            A new or empty folder.

        Returns
        -------
        Path
            The folder.

        Raises
        ------
        FileError
            If the folder has files, or cannot be written.
        """
        with new_folder(folder) as place, labels_of_result(self.objects) as labels:
            self._write_maps(place, labels)
            self.objects.write_table(place / "objects.csv")
            name = str(self.provenance.get("image", ""))
            write_geojson(place / "objects.geojson", self.objects, names=self.classes, image=name)
            write_image(place / "overlay.png", self.picture())
            write_text(place / "run.json", json.dumps(self._facts(), indent=2, default=str) + "\n")
        return Path(os.fspath(folder))

    def _write_maps(self, place: Path, labels: Source) -> None:
        """Write labels and classes band by band, and the map where there is one."""
        kinds = np.concatenate([[0], np.asarray(self.objects.table["class"], int)])
        text = {
            name: value if isinstance(value, str) else json.dumps(value)
            for name, value in self.provenance.items()
        }
        options: dict[str, Any] = {"labels": True, "pixel_size": self.pixel_size, "provenance": text}
        shown = kinds * 255 if len(self.classes) == 1 else kinds  # as all mask files of one class
        small = np.uint8 if len(self.classes) < 256 else np.uint16
        with (
            create_image(place / "labels.ome.tif", self.plan.shape, np.uint32, **options) as numbers,
            create_image(place / "mask.ome.tif", self.plan.shape, small, **options) as mask,
        ):
            for top, band in bands_of(labels):
                numbers[top : top + len(band)] = band
                mask[top : top + len(band)] = shown[band].astype(small)
        if self.map is not None:
            with create_image(place / "map.npy", self.map.shape, np.float32) as file:
                file[0 : len(self.map)] = self.map

    def _facts(self) -> dict[str, Any]:
        size = self.pixel_size
        return {
            **self.provenance,
            "model_digest": _digest_of(self.plan.network),
            "shape": self.plan.shape,
            "pixel_size_um": None if size is None else [size.y, size.x],
            "objects": len(self.objects),
            "counts": self.counts(),
            "plan": str(self.plan).splitlines(),
            "seams": None if self.seams is None else str(self.seams),
        }

    def __repr__(self) -> str:
        height, width = self.plan.shape
        size = self.pixel_size
        px = "" if size is None else f", px of {size.y:g} x {size.x:g} µm"
        n_objects = counted(len(self.objects), "object")
        return f"Segmentation({n_objects} in {height} x {width} px{px}: {self._counted()})"

    def _counted(self) -> str:
        """Say how many objects there are of each class; of many classes, of those that have any."""
        counts = self.counts()
        shown = [name for name, number in counts.items() if number or len(counts) <= _CLASSES_SHOWN]
        return ", ".join(f"{counts[name]} {name}" for name in shown) or "none"

    def _repr_html_(self) -> str:
        columns = [name for name in _COLUMNS_SHOWN if name in self.objects.table]
        shown = min(len(self.objects), _ROWS_SHOWN)
        more = len(self.objects) - shown
        parts = [
            paragraph(repr(self)),
            picture(as_png(self.picture(_NOTEBOOK_SIDE)), "outlines"),
            table(("label", *columns), (self._row(place, columns) for place in range(shown))),
            paragraph(f"{more} more rows") if more else "",
            "" if self.seams is None else paragraph(self.seams),
        ]
        return "".join(parts)

    def _row(self, place: int, columns: list[str]) -> list[str]:
        measured = self.objects.table
        cells = [str(measured["label"][place])]
        for name in columns:
            value = measured[name][place]
            text = str(value) if name == "area" else f"{value:.4g}"
            cells.append(self.classes[value - 1] if name == "class" else text)
        return cells


def _digest_of(network: Network) -> str | None:
    """Return the digest of architecture and weights; None for a function that states none."""
    try:
        return network.digest
    except SettingError:
        return None
