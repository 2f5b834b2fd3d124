"""Objects of a map: their labels and the table of their measurements."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from tiledseg._extras import extra
from tiledseg._validate import check_finite, check_image, check_labels, invalid, read_region, settings_of
from tiledseg.config import ObjectsConfig
from tiledseg.errors import ArrayError
from tiledseg.objects.measure import bands, geometry, values
from tiledseg.objects.runs import RunJoiner, on_border

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tiledseg._types import AnyArray, Sink, Source
    from tiledseg.objects.measure import Table
    from tiledseg.objects.runs import Runs


@dataclass(frozen=True, slots=True, eq=False)
class Objects:
    """The objects of a map.

    Attributes
    ----------
    labels : array
        The number of the object that each px belongs to, (H, W) uint32, 0 for the background; `out`
        where one was given.
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
    settings = settings_of(ObjectsConfig, config, "config")
    height, width, _ = check_image(map)
    shape = (height, width)
    if image is not None and check_image(image)[:2] != shape:
        raise _unlike("image", f"have the map's size, (H, W) = {shape}", image.shape)
    if out is not None and (tuple(out.shape), np.dtype(out.dtype)) != (shape, np.uint32):
        raise _unlike("out", f"have shape {shape} and dtype uint32", f"{tuple(out.shape)} {out.dtype}")
    joiner = RunJoiner(width, settings.connectivity, holes=settings.fill_holes)
    for first, last in bands(height):
        joiner.feed(_classes(_rows(map, first, last), settings.threshold))
    runs = _chosen(joiner.close(), height, settings)
    labels: Any = np.empty(shape, np.uint32) if out is None else out
    numbers = np.arange(1, len(runs.label) + 1, dtype=np.uint32)
    for first, last in bands(height):
        labels[first:last, :] = runs.painted(first, last, numbers)
    return Objects(labels, _table(runs, map, image))


def _unlike(name: str, must: str, got: object) -> ArrayError:
    return invalid(ArrayError, name, must=must, got=got, fix="Give one that belongs to the map.")


def _rows(source: Source, first: int, last: int) -> AnyArray:
    pixels = read_region(source, slice(first, last), slice(0, source.shape[1]))
    check_finite(pixels, "map or image", (first, 0))
    return pixels


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


def _chosen(runs: Runs, height: int, settings: ObjectsConfig) -> Runs:
    """Fill holes, leave out what does not count, and number the rest anew."""
    area_of = np.where(runs.holes >= 0, runs.holes, np.arange(len(runs.label)))
    number = area_of[runs.number]
    area = np.bincount(number, runs.length, len(runs.label))
    keep: NDArray[np.bool_] = (runs.label > 0) & (area >= settings.min_area)
    if settings.max_area is not None:
        keep &= area <= settings.max_area
    if not settings.keep_border:
        keep &= ~on_border(runs, height)
    stay = keep[number]
    return replace(
        runs,
        start=runs.start[stay],
        length=runs.length[stay],
        number=(np.cumsum(keep) - 1)[number[stay]],
        label=runs.label[keep],
        holes=np.full(np.count_nonzero(keep), -1),
    )


def _table(runs: Runs, probs: Source, image: Source | None) -> Table:
    height = probs.shape[0]
    table: Table = {"label": np.arange(1, len(runs.label) + 1, dtype=np.uint32), "class": runs.label}
    table |= geometry(runs, height)
    if np.dtype(probs.dtype).kind == "f":
        several = len(probs.shape) == 3 and probs.shape[2] > 1
        of_class = values(runs, height, partial(_rows, probs), runs.label if several else 0)
        table |= {f"probability_{name}": column for name, column in of_class.items()}
    if image is None:
        return table
    for channel in range(check_image(image)[2]):
        found = values(runs, height, partial(_rows, image), channel)
        table |= {f"channel_{channel}_{name}": column for name, column in found.items()}
    return table
