"""Objects of a map: their labels and the table of their measurements."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tiledseg._extras import extra
from tiledseg._progress import progress_bar
from tiledseg._validate import check_finite, check_image, check_labels, invalid, read_region, settings_of
from tiledseg.config import ObjectsConfig
from tiledseg.errors import ArrayError
from tiledseg.objects.arrival import Arrival
from tiledseg.objects.collect import Collector
from tiledseg.objects.measure import Values
from tiledseg.objects.runs import RunJoiner

if TYPE_CHECKING:
    from collections.abc import Callable

    from tiledseg._types import AnyArray, Sink, Source
    from tiledseg.objects.collect import ObjectBatch
    from tiledseg.objects.runs import Components

_BAND_PX = 1 << 21  # px of a map that are read at a time


@dataclass(frozen=True, slots=True, eq=False)
class Objects:
    """The objects of a map.

    Attributes
    ----------
    labels : array
        The number of the object that each px belongs to, (H, W) uint32, 0 for the background; None where
        no labels were asked for.
    table : dict of str to numpy.ndarray
        Columns by name, with a row for each object.
    """

    labels: Any
    table: dict[str, AnyArray]

    def __len__(self) -> int:
        return len(self.table["label"])

    def to_pandas(self) -> Any:  # noqa: ANN401  pandas may be missing
        """Return the table as a pandas.DataFrame.

        Returns
        -------
        pandas.DataFrame
            One row for each object, with its label as the index.

        Raises
        ------
        SettingError
            If pandas is not installed; the extra ``table`` installs it.
        """
        return extra("pandas", "table").DataFrame(self.table).set_index("label")


class ObjectsSink:
    """Takes the px of a map while it is computed, and makes objects of them.

    It is a `Sink`: a prediction or anything else writes the map into it by slice assignment,
    ``sink[y0:y1, x0:x1] = px``, each px once. Whole rows in order need the least memory; blocks, panels and
    rows in another order wait in a temporary file until the rows above them are there. Of each row only the
    runs of px of objects are kept, and the values of these px. `finish` then numbers the objects, measures
    them and writes their labels, from the runs alone: neither the map nor the image is read again.

    The result depends on the map alone, bit for bit: not on tiles, on the size of blocks or on their order.

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

    Attributes
    ----------
    shape : tuple of int
        Shape of the map.
    dtype : dtype
        Dtype of the map.

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
        dtype: Any = np.float32,  # noqa: ANN401  anything that NumPy accepts as a dtype
        config: ObjectsConfig | dict[str, Any] | None = None,
        *,
        image: Source | None = None,
    ) -> None:
        self.shape: tuple[int, ...] = tuple(shape)
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        self._settings = settings_of(ObjectsConfig, config, "config")
        self._image = image
        if image is not None and check_image(image)[:2] != self.shape[:2]:
            must = f"have the map's size, (H, W) = {self.shape[:2]}"
            raise _unlike("image", must, image.shape)
        self._joiner = RunJoiner(self.shape[1], self._settings.connectivity, holes=self._settings.fill_holes)
        self._probs = self._probability()
        channels = 0 if image is None else check_image(image)[2]
        names = [f"channel_{channel}" for channel in range(channels)]
        self._channels = None if image is None else Values(names, np.dtype(image.dtype))
        self._arrival = Arrival(self.shape, self.dtype, self._take)

    def __setitem__(self, region: Any, px: Any) -> None:  # noqa: ANN401  a slice or a tuple of them
        """Take a region of the map."""
        self._arrival.put(region, px)

    def finish(
        self,
        out: Sink | None = None,
        *,
        each: Callable[[ObjectBatch], object] | None = None,
        progress: bool = False,
    ) -> Objects:
        """Give each object its number and measure it, once all px were given.

        Parameters
        ----------
        out : Sink, optional
            Where the labels are written, in order, by whole rows: anything with shape (H, W), dtype uint32
            and slice assignment. Without it, no labels are made.
        each : callable, optional
            Is called with an `ObjectBatch` of each group of objects as soon as it is measured, to write
            outlines or rows of a table while the rest is still to come. An object comes once, after its last
            row: batches, and objects in them, are the same whatever the tiling.
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
        """
        size = self.shape[:2]
        if out is not None and (tuple(out.shape), np.dtype(out.dtype)) != (size, np.uint32):
            raise _unlike("out", f"have shape {size} and dtype uint32", f"{tuple(out.shape)} {out.dtype}")
        self._arrival.check_complete()
        found = self._chosen(self._joiner.close())
        values = [part for part in (self._probs, self._channels) if part is not None]
        collector = Collector(found, values, each)
        with progress_bar(size[0], "objects", shown=progress) as step:
            return Objects(out, collector.run(out, step))

    def _probability(self) -> Values | None:
        """Make the place for the probability of each px; of all classes where a hole may get any of them."""
        if self.dtype.kind != "f":
            return None
        classes = self.shape[2] if len(self.shape) == 3 else 1
        if classes > 1 and self._settings.fill_holes:
            return Values([str(one) for one in range(classes)], self.dtype, of_class=True)
        return Values(["probability"], self.dtype)

    def _take(self, first: int, rows: AnyArray) -> None:
        """Take the next whole rows."""
        step = max(1, _BAND_PX // rows[0].size)
        for start in range(0, len(rows), step):
            self._take_band(first + start, rows[start : start + step])

    def _take_band(self, first: int, band: AnyArray) -> None:
        check_finite(band, "map", (first, 0))
        row, x0, x1 = self._joiner.feed(_classes(band, self._settings.threshold))
        if self._probs is None and self._channels is None:
            return
        places = _places(row * self.shape[1] + x0, x1 - x0)
        if self._probs is not None:
            px = band.reshape(len(band) * self.shape[1], -1)[places]
            self._probs.append(px if self._settings.fill_holes else px.max(axis=1, keepdims=True))
        if self._image is not None and self._channels is not None:
            rows = slice(first, first + len(band))
            pixels = read_region(self._image, rows, slice(0, self.shape[1]))
            check_finite(pixels, "image", (first, 0))
            self._channels.append(pixels.reshape(len(band) * self.shape[1], -1)[places])

    def _chosen(self, found: Components) -> Components:
        """Leave out the objects that do not count."""
        settings = self._settings
        keep = found.area >= settings.min_area
        if settings.max_area is not None:
            keep &= found.area <= settings.max_area
        if not settings.keep_border:
            keep &= ~found.on_border()
        return found.chosen(keep)


def label_objects(
    map: Source,  # noqa: A002  what the other functions call it
    config: ObjectsConfig | dict[str, Any] | None = None,
    *,
    image: Source | None = None,
    out: Sink | None = None,
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
        Probabilities are read twice.
    config : ObjectsConfig or dict, optional
        Which areas are one object, and which of them count.
    image : array or Source, optional
        Image whose channels are measured too, (H, W) or (H, W, C).
    out : Sink, optional
        Where the labels are written, band by band: anything with shape (H, W), dtype uint32 and slice
        assignment, for example a numpy.memmap or a zarr. By default it is a new array.

    Returns
    -------
    Objects
        ``labels`` and ``table``. Columns, in px and in the image's frame: ``label``, ``class``,
        ``centroid_y``, ``centroid_x``, ``box_y0``, ``box_x0``, ``box_y1``, ``box_x1`` (half-open),
        ``area``, ``perimeter``, ``equivalent_diameter``, ``major_axis``, ``minor_axis``, ``orientation``
        (radians from the y axis), ``eccentricity``, ``extent``, ``circularity`` (NaN for an object
        without perimeter, such as one px). ``probability_mean``, ``_sd``, ``_min`` and ``_max`` of the
        object's class follow for a map of probabilities, and the same as ``channel_0_mean`` and so on for
        each channel of the image. They are defined as in skimage.measure.regionprops.

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
    check_image(map)
    size = (int(map.shape[0]), int(map.shape[1]))
    if out is not None and (tuple(out.shape), np.dtype(out.dtype)) != (size, np.uint32):
        raise _unlike("out", f"have shape {size} and dtype uint32", f"{tuple(out.shape)} {out.dtype}")
    sink = ObjectsSink(tuple(map.shape), map.dtype, config, image=image)
    step = max(1, _BAND_PX // int(np.prod(map.shape[1:])))
    for first in range(0, size[0], step):
        rows = slice(first, min(first + step, size[0]))
        sink[rows] = read_region(map, rows, slice(0, size[1]))
    return sink.finish(np.empty(size, np.uint32) if out is None else out)


def _unlike(name: str, must: str, got: object) -> ArrayError:
    return invalid(ArrayError, name, must=must, got=got, fix="Give one that belongs to the map.")


def _classes(band: AnyArray, threshold: float) -> AnyArray:
    """Return the class of each px of a band of labels or probabilities."""
    if band.dtype.kind != "f":
        return check_labels(band, "map")
    if band.min() < 0 or band.max() > 1:
        raise invalid(
            ArrayError,
            "map",
            must="hold probabilities in [0, 1]",
            got=f"values in [{band.min():g}, {band.max():g}]",
            fix="Apply a sigmoid or softmax, or give labels as integers.",
        )
    if band.ndim == 2 or band.shape[2] == 1:
        return np.asarray(band.reshape(band.shape[:2]) >= threshold)
    return np.asarray(band.argmax(axis=2))


def _places(start: AnyArray, length: AnyArray) -> AnyArray:
    """List the px of runs."""
    begin = np.cumsum(length) - length
    places = np.repeat(start - begin, length)
    places += np.arange(len(places))
    return places
