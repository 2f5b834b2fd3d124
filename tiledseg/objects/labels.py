"""Objects of a map: their labels and the table of their measurements."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from tiledseg._arrays import check_finite, check_image, check_labels, check_shape, read_bands
from tiledseg._validate import counted, invalid, settings_of
from tiledseg.config import ObjectsConfig
from tiledseg.errors import ArrayError, SettingError
from tiledseg.io import ImageSource, as_array, level_notes, pixel_size_from
from tiledseg.objects.collect import check_out, collected
from tiledseg.objects.measure import ImageValues, Values
from tiledseg.objects.runs import RunJoiner, ranges
from tiledseg.objects.split import by_distance, by_seeds, split
from tiledseg.objects.spool import Arrival

if TYPE_CHECKING:
    from collections.abc import Callable

    from tiledseg._types import AnyArray, PathLike, Sink, Source
    from tiledseg.io import PixelSize
    from tiledseg.objects.collect import ObjectBatch
    from tiledseg.objects.runs import Components
    from tiledseg.objects.table import Objects

_EVEN = 0.5  # cuts two classes where the larger one changes
_BAND_PX = 1 << 21  # px of a map that are read at a time


class ObjectsSink:
    """Takes the px of a map while it is computed, and makes objects of them.

    It is a `Sink`: a prediction or anything else writes the map into it by slice assignment,
    ``sink[y0:y1, x0:x1] = px``, each px once. Whole rows in order need the least memory; blocks, panels and
    rows in another order wait in a temporary file until the rows above them are there. Only the runs of px
    of objects are kept of each row, and the values of these px. `finish` then numbers the objects, measures
    them and writes their labels, only from the runs: neither the map nor the image is read again.

    The result depends only on the map, bit for bit: not on tiles, or on the size or order of blocks.

    Parameters
    ----------
    shape : tuple of int
        Shape of the map, (H, W) or (H, W, K).
    dtype : dtype
        Dtype of the map: float for probabilities, boolean or integer for labels.
    config : ObjectsConfig or dict, optional
        Which areas are one object, and which of them count.
    image : array or Source, optional
        Image of the map's size whose channels are measured, (H, W) or (H, W, C). Each row is read once, in
        order, when the map is complete down to it: rows that a prediction has read already can be passed
        through a source that still holds them.
    pixel_size : PixelSize, float or tuple of float, optional
        Height and width of a px in µm, for columns in µm and limits in µm². By default that of the image,
        where it states one.

    Attributes
    ----------
    shape : tuple of int
        Shape of the map.
    dtype : dtype
        Dtype of the map.
    notes : dict
        Text by name, which a file of labels states.

    Raises
    ------
    ArrayError
        If map and image have different sizes. While px are written: if they are neither labels nor
        probabilities in [0, 1].
    SettingError
        If a setting is unknown or out of its range.

    Examples
    --------
    >>> import numpy as np
    >>> sink = ObjectsSink((3, 4), np.uint8)
    >>> sink[0:2] = np.array([[1, 0, 0, 1], [1, 0, 0, 1]])
    >>> sink[2:3] = np.array([[1, 1, 1, 1]])
    >>> objects = sink.finish()
    >>> objects.table["area"].tolist(), objects.labels is None
    ([8], True)
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: Any = np.float32,  # anything that NumPy accepts as a dtype
        config: ObjectsConfig | dict[str, Any] | None = None,
        *,
        image: Source | None = None,
        pixel_size: PixelSize | float | tuple[float, float] | None = None,
    ) -> None:
        check_shape(shape, name="shape")
        self.shape: tuple[int, ...] = tuple(map(int, shape))
        try:
            self.dtype: np.dtype[Any] = np.dtype(dtype)
        except Exception:  # noqa: BLE001  of a class of the user's
            must, fix = "be a dtype of NumPy", "Pass the dtype of the map, for example float32."
            raise invalid(SettingError, "dtype", must=must, got=dtype, fix=fix) from None
        self._settings = _cut(settings_of(ObjectsConfig, config, "config"), self.dtype)
        image = as_array(image)
        if image is not None and check_image(image)[:2] != self.shape[:2]:
            must, fix = f"have the map's size, (H, W) = {self.shape[:2]}", "Give one that belongs to the map."
            raise invalid(ArrayError, "image", must=must, got=image.shape, fix=fix)
        self._pixel_size = pixel_size_from(pixel_size) or getattr(image, "pixel_size", None)
        self.notes: dict[str, str] = level_notes(image) if isinstance(image, ImageSource) else {}
        self._limits = _limits(self._settings, self._pixel_size)
        self._last = False
        if self.dtype.kind == "f":
            threshold = self._settings.threshold or _EVEN
            _check_thresholds(threshold, self.shape)
            # of two classes with another threshold than 0.5, only the second says where the foreground is
            self._last = self.shape[2:] == (2,) and not _is_even(threshold)
        self._joiner = RunJoiner(
            self.shape[1],
            self._settings.connectivity,
            holes=self._settings.fill_holes,
            joined=_joined_class(self._settings),
        )
        self._probs = self._probability()
        self._channels = None if image is None else ImageValues(image)
        self._arrival = Arrival(self.shape, self.dtype, self._take)

    def __setitem__(self, region: Any, px: Any) -> None:  # a slice or a tuple of them
        """Take a region of the map."""
        self._arrival.put(region, px)

    def finish(
        self,
        out: Sink | PathLike | None = None,
        *,
        each: Callable[[ObjectBatch], object] | None = None,
        measure: bool = True,
        progress: bool = False,
    ) -> Objects:
        """Give each object its number and measure it, once all px were given.

        Parameters
        ----------
        out : Sink or path, optional
            Where the labels are written, in order, by whole rows: anything with shape (H, W), dtype uint32
            and slice assignment; or the path of an ``.ome.tif``, ``.ome.zarr``, ``.zarr`` or ``.npy``, which
            is written whole or not at all. If that is interrupted, the next call for the same objects
            resumes it. Without `out`, no labels are made.
        each : callable, optional
            Is called with an `ObjectBatch` of each group of objects as soon as it is measured, to write
            outlines or rows of a table while the rest is still to come. An object comes once, after its last
            row: batches, and objects in them, are the same whatever the tiling.
        measure : bool
            Whether to measure more than the area and the bounding box.
        progress : bool
            Whether to show progress, in rows of the map.

        Returns
        -------
        Objects
            ``labels``, which is `out`, and ``table``; see `label_objects`.

        Raises
        ------
        ArrayError
            If `out` does not fit the map, or px are missing.
        FileError
            If the file cannot be written.
        """
        size = (self.shape[0], self.shape[1])
        check_out(out, size)
        self._arrival.check_complete()
        found, n_unsplit = self._components()
        values = [part for part in (self._probs, self._channels) if part is not None]
        options: dict[str, Any] = {"each": each, "measure": measure, "progress": progress}
        options["notes"] = self.notes
        settings = self._settings.model_dump(mode="json")
        return collected(found, values, self._pixel_size, out, settings, n_unsplit, **options)

    def _probability(self) -> Values | None:
        """Make the place for the probability of each px; of all classes where a hole may get any of them."""
        if self.dtype.kind != "f":
            return None
        classes = self.shape[2] if len(self.shape) == 3 and not self._last else 1
        if classes > 1 and self._settings.fill_holes:
            return Values([str(one) for one in range(classes)], self.dtype, of_class=True)
        return Values(["probability"], self.dtype)

    def _take(self, first: int, rows: AnyArray) -> None:
        """Take the next whole rows."""
        step = max(1, _BAND_PX // rows[0].size)
        for start in range(0, len(rows), step):
            self._take_band(first + start, rows[start : start + step])

    def _take_band(self, first: int, band: AnyArray) -> None:
        if band.dtype.kind == "f" and not np.isfinite(band.max() + band.min()):  # faster than to look at each
            check_finite(band, "map", (first, 0))
        band = band[..., -1:] if self._last else band
        row, x0, x1 = self._joiner.feed(*_classes(band, self._settings))
        if self._probs is None and self._channels is None:
            return
        places = ranges(row * self.shape[1] + x0, x1 - x0)
        if self._probs is not None:
            px = np.take(band.reshape(len(band) * self.shape[1], -1), places, axis=0)
            one = px.shape[1] == 1 or self._settings.fill_holes
            self._probs.append(px if one else px.max(axis=1, keepdims=True))
        if self._channels is not None:
            self._channels.take(first, len(band), places)

    def _components(self) -> tuple[Components, int]:
        """Return the objects that count, and how many were too large to be split."""
        settings, found, n_unsplit = self._settings, self._joiner.close(), 0
        least, most = self._limits
        if settings.split == "watershed":
            found = found.chosen(found.area >= least)  # a part is not larger than the whole
            partition = by_distance(settings.split_depth, settings.connectivity)
            if _joined_class(settings):
                partition = by_seeds(settings.connectivity, alone=settings.centre_class is not None)
            found, n_unsplit = split(found, partition, settings.split_max_px)
        keep = (found.area >= least) & (found.area <= most)
        if not settings.keep_border:
            keep &= ~found.on_border()
        return found.chosen(keep), n_unsplit


def label_objects(  # noqa: PLR0913  what is measured, and where labels go
    map: Source,  # noqa: A002  what the other functions call it
    config: ObjectsConfig | dict[str, Any] | None = None,
    *,
    image: Source | None = None,
    pixel_size: PixelSize | float | tuple[float, float] | None = None,
    out: Sink | PathLike | None = None,
    measure: bool = True,
    progress: bool = False,
) -> Objects:
    """Find the objects of a map, number them in reading order and measure them.

    An object is a connected area of px of one class. Map and image are read in bands of rows: they may be
    files that do not fit into memory. Only the runs of px of the objects are kept: with `out`, memory
    grows with the number of runs, and not with the area of the map.

    Parameters
    ----------
    map : array or Source
        Labels, (H, W) boolean or integer, where 0 is the background and each other label is a class; or
        probabilities in [0, 1], (H, W), (H, W, 1) or (H, W, K), as `tiled_predict` returns them.
    config : ObjectsConfig or dict, optional
        Which areas are one object, and which of them count.
    image : array or Source, optional
        Image whose channels are measured too, (H, W) or (H, W, C).
    pixel_size : PixelSize, float or tuple of float, optional
        Height and width of a px in µm, for columns in µm and limits in µm². By default that of the image or
        the map, where one of them states it.
    out : Sink or path, optional
        Where the labels are written, band by band: anything with shape (H, W), dtype uint32 and slice
        assignment, for example a numpy.memmap or a zarr; or the path of an ``.ome.tif``, ``.ome.zarr``,
        ``.zarr`` or ``.npy``, see `ObjectsSink.finish`. By default it is a new array.
    measure : bool
        Whether to measure more than the area and the bounding box.
    progress : bool
        Whether to show progress, in rows of the map.

    Returns
    -------
    Objects
        ``labels`` and ``table``. Columns, in px and in the image's frame: ``label``, ``class``,
        ``centroid_y``, ``centroid_x``, ``box_y0``, ``box_x0``, ``box_y1``, ``box_x1`` (half-open),
        ``area``, ``perimeter``, ``equivalent_diameter``, ``major_axis``, ``minor_axis``, ``orientation``
        (radians from the y axis), ``eccentricity``, ``solidity``, ``extent``, ``circularity`` (NaN for an
        object without perimeter, such as one px). With the size of a px, also ``centroid_y_um``,
        ``centroid_x_um``, ``area_um2``, ``perimeter_um`` (NaN where px are not square),
        ``equivalent_diameter_um``, ``major_axis_um``, ``minor_axis_um``. ``probability_mean``, ``_sd``,
        ``_min`` and ``_max`` of the object's class follow for a map of probabilities, and the same as
        ``channel_0_mean`` and so on for each channel of the image. They are defined as in
        skimage.measure.regionprops.

    Raises
    ------
    ArrayError
        If the map is neither labels nor probabilities in [0, 1], or image or `out` do not fit it.
    SettingError
        If a setting is unknown or out of its range.

    Examples
    --------
    >>> import numpy as np
    >>> objects = label_objects(np.array([[1, 0, 2], [1, 0, 2], [0, 0, 2]]))
    >>> objects.table["area"].tolist(), objects.table["class"].tolist()
    ([2, 3], [1, 2])
    """
    map = as_array(map, "map")  # noqa: A001
    check_image(map, name="map")
    size = (int(map.shape[0]), int(map.shape[1]))
    check_out(out, size)
    own = getattr(image, "pixel_size", None) or getattr(map, "pixel_size", None)
    sink = ObjectsSink(
        tuple(map.shape), map.dtype, config, image=image, pixel_size=own if pixel_size is None else pixel_size
    )
    step = max(1, _BAND_PX // int(np.prod(map.shape[1:])))
    for first, band in read_bands(map, step):
        sink[first : first + len(band)] = band
    labels = np.empty(size, np.uint32) if out is None else out
    return sink.finish(labels, measure=measure, progress=progress)


def _limits(settings: ObjectsConfig, pixel_size: PixelSize | None) -> tuple[float, float]:
    """Return the least and the largest area in px."""
    most = math.inf if settings.max_area is None else settings.max_area
    if settings.area_unit == "px":
        return settings.min_area, most
    if pixel_size is None:
        fix = "State the µm of a px as pixel_size, for example 0.25, where the image is opened or predicted."
        raise invalid(SettingError, "area_unit", must="be px without the size of a px", got="um2", fix=fix)
    px = pixel_size.y * pixel_size.x
    return settings.min_area / px, most / px


def _cut(settings: ObjectsConfig, dtype: np.dtype[Any]) -> ObjectsConfig:
    """Set the threshold of a map of probabilities; labels have none."""
    if dtype.kind == "f":
        return settings if settings.threshold is not None else settings.changed(threshold=_EVEN)
    if settings.threshold is not None:
        must, fix = "be left out for a map of labels", "Give probabilities, or leave it out."
        raise invalid(SettingError, "threshold", must=must, got=settings.threshold, fix=fix)
    return settings


def _check_thresholds(threshold: float | tuple[float, ...], shape: tuple[int, ...]) -> None:
    """Check that there is a threshold for each class but the background."""
    wanted = max(1, shape[2] - 1) if len(shape) == 3 else 1
    if isinstance(threshold, tuple) and len(threshold) != wanted:
        must = f"have {counted(wanted, 'value')}, one for each class but the background"
        raise invalid(SettingError, "threshold", must=must, got=threshold, fix="Give as many.")
    if wanted > 1 and not _is_even(threshold):
        must = f"be {wanted} values, one for each class but the background, or be left out"
        fix = "Without it, the most probable class of each px counts."
        raise invalid(SettingError, "threshold", must=must, got=threshold, fix=fix)


def _is_even(threshold: float | tuple[float, ...]) -> bool:
    """Say whether px have the class of their largest probability, at least as far as a number says."""
    return isinstance(threshold, tuple) or threshold == _EVEN


def _joined_class(settings: ObjectsConfig) -> int:
    """Return the class of objects that consist of several classes of the map; 0 where they have one."""
    if settings.boundary_class is not None or settings.centre_class is not None:
        return 2 if settings.centre_class == 1 else 1
    return 0


def _classes(band: AnyArray, settings: ObjectsConfig) -> tuple[AnyArray, AnyArray | None]:
    """Return the class of each px of a band of labels or probabilities, and the seeds that classes mark."""
    classes = (
        check_labels(band, "map") if band.dtype.kind != "f" else _likeliest(band, settings.threshold or _EVEN)
    )
    if settings.boundary_class is not None:
        return classes, np.where(classes == settings.boundary_class, 0, classes)
    if settings.centre_class is not None:
        return classes, classes == settings.centre_class
    return classes, None


def _likeliest(band: AnyArray, threshold: float | tuple[float, ...]) -> AnyArray:
    """Return the class of each px of a band of probabilities."""
    if band.min() < 0 or band.max() > 1:
        raise invalid(
            ArrayError,
            "map",
            must="hold probabilities in [0, 1]",
            got=f"values in [{band.min():g}, {band.max():g}]",
            fix="Apply a sigmoid or softmax, or give labels as integers.",
        )
    least = threshold if isinstance(threshold, tuple) else (threshold,)
    if band.ndim == 2 or band.shape[2] == 1:
        return np.asarray(band.reshape(band.shape[:2]) >= least[0])
    found = band.argmax(axis=2)
    if isinstance(threshold, tuple):
        found[band.max(axis=2) < np.array([0, *least])[found]] = 0
    return np.asarray(found)
