"""segment: one image through a network to labels and measured objects."""

from __future__ import annotations

import os
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, Never

import numpy as np

from tiledseg._validate import check_arguments, check_callable, check_image, settings_of
from tiledseg._version import __version__
from tiledseg.config import ObjectsConfig, RuntimeConfig, TilingConfig
from tiledseg.objects import ObjectsSink, check_out
from tiledseg.predict.dask import count_classes
from tiledseg.predict.diagnostics import SeamWatch
from tiledseg.predict.plan import Plan
from tiledseg.predict.prediction import opened, run_plan
from tiledseg.predict.segmentation import Segmentation

if TYPE_CHECKING:
    from collections.abc import Callable

    from tiledseg._types import FloatArray, PathLike, Sink, Source
    from tiledseg.config import TTA
    from tiledseg.engine import Network
    from tiledseg.io import PixelSize
    from tiledseg.predict.roi import Roi
    from tiledseg.tiling import Tile

_EVEN = 0.5
_TABLES = {"tiling": TilingConfig, "objects": ObjectsConfig, "runtime": RuntimeConfig}


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
    model : Segmenter, keras.Model, callable or BundleReference
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
        Where to predict, as for `tiled_predict`; everywhere else is background.
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
        None is accepted; the error names the argument that has it, such as ``tiling`` for ``tile_size``.

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
    check_arguments(unknown, signature(segment).parameters, **_TABLES)
    check_callable("callback", callback)
    settings = settings_of(ObjectsConfig, objects, "objects")
    with opened(image) as source:
        check_image(source)
        options: dict[str, Any] = {"batch_size": batch_size, "roi": roi, "tta": tta, "runtime": runtime}
        job = Plan.of(model, source, tiling, **options)
        check_out(out, job.shape)
        classes = job.classes or count_classes(job, source.dtype)
        size = getattr(source, "pixel_size", None)
        sink = MapSink(source, classes, job.network.threshold, settings, size, keep_map=keep_map)
        watch = SeamWatch(job) if seams else None
        add = None if watch is None else watch.add
        run_plan(job, source, sink, progress=progress, callback=callback, watch=add)
        found = sink.objects.finish(np.empty(job.shape, np.uint32) if out is None else out, progress=progress)
    return Segmentation(
        found,
        sink.map,
        job,
        None if watch is None else watch.report(),
        class_names(job.network, classes),
        size,
        provenance_of(job, image, sink.settings),
        image,
    )


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
        own = "threshold" not in settings.model_fields_set
        # of two classes with another threshold than 0.5, only the second says where the foreground is
        self._last = own and classes == 2 and threshold != _EVEN
        self.settings: ObjectsConfig = settings.changed(threshold=threshold) if own else settings
        shape = (*self.shape[:2], 1 if self._last else classes)
        self.objects = ObjectsSink(shape, np.float32, self.settings, image=image, pixel_size=pixel_size)
        self.map: FloatArray | None = np.zeros(self.shape, np.float32) if keep_map else None

    def __setitem__(self, key: Any, probs: FloatArray) -> None:  # noqa: ANN401  a slice or several
        if self.map is not None:
            self.map[key] = probs
        within = np.clip(probs, 0, 1)  # `check_probabilities` allows for rounding
        self.objects[key] = within[..., -1:] if self._last else within


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
        "image": Path(image).name if isinstance(image, str | os.PathLike) else "",
        "model": getattr(network.reference, "digest", None) or type(network.model).__name__,
        "tiling": job.tiling.model_dump(mode="json"),
        "threshold": settings.threshold,
        "settings": settings.model_dump(mode="json"),  # of the objects
    }
