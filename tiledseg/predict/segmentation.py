"""segment: one image through a network to labels and measured objects, and what it returns."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Never

import numpy as np

from tiledseg._arrays import check_image
from tiledseg._notebook import paragraph, picture, table
from tiledseg._storage import new_folder, write_text
from tiledseg._validate import check_arguments, check_callable, counted, settings_of, whole_number
from tiledseg._version import __version__
from tiledseg.config import ObjectsConfig, RuntimeConfig, TilingConfig
from tiledseg.errors import SettingError
from tiledseg.export import labels_of_result, write_geojson
from tiledseg.io import ImageSource, create_image, level_notes, write_image
from tiledseg.objects import ObjectsSink, bands_of, check_out
from tiledseg.plots import PALETTE, as_picture, as_png, every_nth, on_axes, outlined
from tiledseg.predict.diagnostics import SeamWatch
from tiledseg.predict.plan import Plan, classes_of, make_plan
from tiledseg.predict.prediction import opened, run_plan

if TYPE_CHECKING:
    from collections.abc import Callable

    from tiledseg._types import FloatArray, PathLike, Sink, Source
    from tiledseg.config import TTA
    from tiledseg.engine import Network
    from tiledseg.io import PixelSize
    from tiledseg.objects import Objects
    from tiledseg.plots import Rgb
    from tiledseg.predict.diagnostics import SeamReport
    from tiledseg.predict.roi import Roi
    from tiledseg.tiling import Tile

_NOTEBOOK_SIDE, _PLOT_SIDE, _FILE_SIDE = 900, 2048, 4096  # px of the longer side of a picture
_ROWS_SHOWN, _CLASSES_SHOWN = 5, 8
_COLUMNS_SHOWN = ("class", "centroid_y", "centroid_x", "area", "perimeter", "circularity", "probability_mean")
_TABLES = {"tiling": TilingConfig, "objects": ObjectsConfig, "runtime": RuntimeConfig}


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
    def labels(self) -> Any:  # an array, or whatever `out` was
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

    def plot(self, ax: Any = None) -> Any:  # matplotlib may be missing
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
        ax = on_axes(self.picture(_PLOT_SIDE), self.plan.shape, ax)
        ax.set_title(self._counted())
        return ax

    def save(self, folder: PathLike) -> Path:
        """Write everything into a new folder, whole or not at all.

        The files are ``mask.ome.tif`` (0 and 255; of several classes the class of each px),
        ``labels.ome.tif``, ``objects.csv``, ``objects.geojson``, ``overlay.png`` (at most 4096 px a side),
        ``run.json``, and ``map.npy`` where the map was asked for. For an image that was opened at a smaller
        level, positions in ``objects.geojson`` are in px of level 0, those in ``objects.csv`` in px of that
        level; the masks state its scale, as `tiledseg export` reads it.

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
            scale = getattr(self.image, "level_scale", (1.0, 1.0))
            named: dict[str, Any] = {"names": self.classes, "image": name, "scale": scale}
            write_geojson(place / "objects.geojson", self.objects, **named)
            write_image(place / "overlay.png", self.picture())
            write_text(place / "run.json", json.dumps(self._facts(), indent=2, default=str) + "\n")
        return Path(os.fspath(folder))

    def _write_maps(self, place: Path, labels: Source) -> None:
        """Write labels and classes band by band, and the map where there is one."""
        kinds = np.concatenate([[0], np.asarray(self.objects.table["class"], int)])
        text = {key: one if isinstance(one, str) else json.dumps(one) for key, one in self.provenance.items()}
        text |= level_notes(self.image) if isinstance(self.image, ImageSource) else {}
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
        size, digest = self.pixel_size, None
        with suppress(SettingError):  # a function that states none
            digest = self.plan.network.digest
        return {
            **self.provenance,
            "model_digest": digest,
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


def segment(  # noqa: PLR0913  what `tiled_predict` takes, and what objects are
    model: object,
    image: Source | PathLike,
    tiling: TilingConfig | dict[str, Any] | None = None,
    *,
    objects: ObjectsConfig | dict[str, Any] | None = None,
    batch_size: int | None = None,
    roi: Roi | None = None,
    out: Sink | PathLike | None = None,
    keep_map: bool = False,
    seams: bool = False,
    tta: TTA | None = None,
    runtime: RuntimeConfig | dict[str, Any] | None = None,
    progress: bool = False,
    callback: Callable[[Tile, int, int], bool | None] | None = None,
    **unknown: Never,
) -> Segmentation:
    """Find and measure the objects of an image of any size.

    The image is predicted as by `tiled_predict`, and objects are made of the map while it is computed, as by
    `label_objects`: no border of tiles cuts an object, and neither labels nor measurements depend on the
    tiling more than the map does. The map itself is not kept unless it is asked for.

    Parameters
    ----------
    model : Segmenter, keras.Model, PyTorch module, callable, BundleReference or path of an ONNX file
        As for `tiled_predict`; its outputs are probabilities in [0, 1].
    image : array_like or path
        As for `tiled_predict`; of a Dask array the result is computed at once. With a px size, stated by the
        file or by ``open_image(image, pixel_size=0.25)``, the table has columns in µm.
    tiling : TilingConfig or dict, optional
        As for `tiled_predict`.
    objects : ObjectsConfig or dict, optional
        Which areas are one object, and which of them count. Where it states no threshold, that of the
        Segmenter is used.
    batch_size : int, optional
        Tiles per call of the network; chosen by memory where it is None.
    roi : array_like, "tissue" or path, optional
        Where to predict, as for `tiled_predict`: tiles that it leaves out are background. The others are
        predicted whole, so that there may be objects beside it.
    out : Sink or path, optional
        Where the labels are written: an array (H, W) uint32, or the path of an ``.ome.tif``, ``.ome.zarr``,
        ``.zarr`` or ``.npy``. A new array where it is None.
    keep_map : bool
        Whether the result has the map of probabilities.
    seams : bool
        Whether the result says how far neighbouring tiles disagree.
    tta : {"flips", "d4"}, optional
        Test-time augmentation.
    runtime : RuntimeConfig or dict, optional
        Engine, precision, devices and memory.
    progress : bool
        Whether to show a progress bar.
    callback : callable, optional
        As for `tiled_predict`.
    **unknown : Never
        No other argument is accepted; the error says where it belongs, as ``tile_size`` in `tiling`.

    Returns
    -------
    Segmentation
        Labels, objects, plan; the map and the seams where they were asked for.

    Raises
    ------
    TiledSegError
        As `tiled_predict` and `label_objects`.

    Examples
    --------
    >>> image = np.zeros((300, 200), np.float32)
    >>> image[90:110, 50:60] = 1
    >>> segment(lambda tiles: tiles, image, {"tile_size": 128, "overlap": 32})
    Segmentation(1 object in 300 x 200 px: 1 foreground)
    """
    check_arguments(unknown, segment, **_TABLES)
    check_callable("callback", callback)
    settings = settings_of(ObjectsConfig, objects, "objects")
    with opened(image) as source:
        check_image(source)
        options: dict[str, Any] = {"batch_size": batch_size, "roi": roi, "tta": tta, "runtime": runtime}
        job = make_plan(model, source, tiling, **options)
        check_out(out, job.shape)
        classes = classes_of(job, source.dtype)
        size = getattr(source, "pixel_size", None)
        sink = MapSink(source, classes, job.network.threshold, settings, size, keep_map=keep_map)
        watch = SeamWatch(job) if seams else None
        add = None if watch is None else watch.add
        run_plan(job, source, sink, progress=progress, callback=callback, watch=add)
        found = sink.objects.finish(np.empty(job.shape, np.uint32) if out is None else out, progress=progress)
    report = None if watch is None else watch.report()
    names, origin = class_names(job.network, classes), provenance_of(job, image, sink.settings)
    return Segmentation(found, sink.map, job, report, names, size, origin, image)


class MapSink:
    """Takes a map of probabilities, makes objects of it as a mask would be cut, and keeps it on request."""

    needs_probabilities: bool = True

    def __init__(
        self,
        image: Source,
        classes: int,
        threshold: float,
        settings: ObjectsConfig,
        pixel_size: PixelSize | None,
        *,
        keep_map: bool = False,
    ) -> None:
        self.shape: tuple[int, int, int] = (image.shape[0], image.shape[1], classes)
        self.dtype: np.dtype[np.float32] = np.dtype(np.float32)
        own = settings.threshold is None
        self.settings: ObjectsConfig = settings.changed(threshold=threshold) if own else settings
        self.objects = ObjectsSink(self.shape, np.float32, self.settings, image=image, pixel_size=pixel_size)
        self.map: FloatArray | None = np.zeros(self.shape, np.float32) if keep_map else None

    def __setitem__(self, key: Any, probs: FloatArray) -> None:  # a slice or several
        if self.map is not None:
            self.map[key] = probs
        self.objects[key] = np.clip(probs, 0, 1)  # `check_probabilities` allows for rounding


def class_names(network: Network, classes: int) -> tuple[str, ...]:
    """Name the classes of objects: those of a network without the background."""
    names = network.labels if classes == 1 else network.labels[1:]
    if names:
        return tuple(names)
    return ("foreground",) if classes <= 2 else tuple(f"class {number}" for number in range(1, classes))


def provenance_of(job: Plan, image: object, settings: ObjectsConfig) -> dict[str, Any]:
    """Say where objects come from."""
    network = job.network
    return {
        "software": f"tiledseg {__version__}",
        "image": Path(_name_of(image)).name,
        "model": getattr(network.reference, "digest", None) or type(network.model).__name__,
        "tiling": job.tiling.model_dump(mode="json"),
        "threshold": settings.threshold,
        "settings": settings.model_dump(mode="json"),  # of the objects
    }


def _name_of(image: object) -> str:
    """Return the path of an image that is read from a file; else nothing."""
    if isinstance(image, str | os.PathLike):
        return os.fspath(image)
    return str(image.name) if isinstance(image, ImageSource) and image.array is None else ""
