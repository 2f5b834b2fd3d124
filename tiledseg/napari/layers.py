"""Layers of napari as images, and segmentations as layers; without Qt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from tiledseg._validate import invalid
from tiledseg.errors import ArrayError
from tiledseg.io import PixelSize, open_image
from tiledseg.samples import smear

if TYPE_CHECKING:
    from tiledseg._types import AnyArray
    from tiledseg.io import ImageSource
    from tiledseg.predict import Segmentation

MARGIN = 128
"""Px around what is on screen that are predicted too, so that objects at its edge have surroundings."""

RESULT = "tiledseg"
"""Key in the metadata of layers that are results; its value says how they were made."""

_COLOURS = ("green", "magenta", "cyan", "yellow", "red", "blue")
_ROW_COLUMNS, _COLUMN_COLUMNS = ("box_y0", "box_y1", "centroid_y"), ("box_x0", "box_x1", "centroid_x")


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """A plane of a layer, or a part of it, read by region: what is predicted."""

    layer: Any  # napari.layers.Image; of several levels, level 0 is read
    plane: tuple[int, ...]  # position on the axes in front of the last two
    origin: tuple[int, int]  # (y, x), px of level 0
    shape: tuple[int, ...]  # (height, width), then the channels of RGB

    @classmethod
    def whole(cls, layer: Any, dims: Any) -> Self:  # napari may be missing
        """Take the plane that a viewer shows of a layer; `dims` are the viewer's."""
        data = _level0(layer)
        _check_axes(layer, dims)
        # a viewer may have more axes than the layer, in front of the layer's
        at = np.rint(layer.world_to_data(dims.point)).astype(int)[:-2]
        lengths = data.shape[: layer.ndim - 2]
        plane = tuple(int(np.clip(place, 0, length - 1)) for place, length in zip(at, lengths, strict=True))
        channels = (min(data.shape[-1], 3),) if layer.rgb else ()
        return cls(layer, plane, (0, 0), (*map(int, data.shape[layer.ndim - 2 : layer.ndim]), *channels))

    @classmethod
    def on_screen(cls, layer: Any, dims: Any) -> Self:
        """Take what is on screen of a layer, and a margin around it."""
        whole = cls.whole(layer, dims)
        step = np.asarray(layer.downsample_factors)[layer.data_level][-2:] if layer.multiscale else 1
        corners = np.asarray(layer.corner_pixels)[:, -2:]
        low = np.floor(corners[0] * step).astype(int) - MARGIN
        high = np.ceil((corners[1] + 1) * step).astype(int) + MARGIN
        low, high = np.maximum(low, 0), np.minimum(high, whole.shape[:2])
        origin = (int(low[0]), int(low[1]))
        return cls(layer, whole.plane, origin, (*map(int, high - low), *whole.shape[2:]))

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the px."""
        dtype: np.dtype[Any] = np.dtype(self.layer.dtype)
        return dtype

    def __getitem__(self, key: Any) -> AnyArray:  # slices of rows and columns
        rows, columns, *rest = key if isinstance(key, tuple) else (key, slice(None))
        place = (*self.plane, self._moved(rows, 0), self._moved(columns, 1))
        part = np.asarray(_level0(self.layer)[place])
        if self.layer.rgb and part.shape[-1] == 4:
            part = _opaque(part)
        return part[(..., *rest)] if rest else part

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> AnyArray:  # noqa: FBT001
        return np.asarray(self[:, :], dtype)

    def _moved(self, part: slice, axis: int) -> slice:
        start, stop, step = part.indices(self.shape[axis])
        return slice(start + self.origin[axis], stop + self.origin[axis], step)

    def opened(self) -> ImageSource:
        """Open the view as an image, with the px size where the layer's unit is one of length."""
        return open_image(self, pixel_size=self._pixel_size())

    def _pixel_size(self) -> PixelSize | None:
        units = getattr(self.layer, "units", ())[-2:]
        if len(units) < 2 or not all(unit.is_compatible_with("micrometer") for unit in units):
            return None
        y, x = (
            (scale * unit).to("micrometer").magnitude
            for scale, unit in zip(self.layer.scale[-2:], units, strict=True)
        )
        return PixelSize(float(y), float(x))

    def placed(self, name: str, **options: Any) -> dict[str, Any]:  # arguments of a layer
        """Give the arguments of a layer that lies on this view."""
        layer = self.layer
        first = np.array((*self.plane, *self.origin), float)
        moved = layer.data_to_world(first) - np.asarray(layer.data_to_world(np.zeros_like(first)))
        moved = np.linalg.solve(layer.affine.linear_matrix, moved)  # `translate` comes before `affine`
        names = ("scale", "rotate", "shear", "affine", "units", "axis_labels")
        same = {one: getattr(layer, one) for one in names if hasattr(layer, one)}
        shown = {"name": f"{layer.name}: {name}", "translate": np.asarray(layer.translate) + moved}
        return {**same, **shown, **options}

    def lifted(self, array: AnyArray) -> AnyArray:
        """Give an array (h, w) the axes that the layer has in front."""
        return array[(None,) * len(self.plane)]


def layers_of(view: View, result: Segmentation) -> list[tuple[AnyArray, dict[str, Any], str]]:
    """Make layers of a segmentation: its maps, if it has any, then labels with the table as features."""
    labels = view.lifted(np.asarray(result.labels))
    features, made = features_of(view, result), {RESULT: result.provenance}
    found = [(labels, view.placed("objects", features=features, metadata=made), "labels")]
    if result.map is not None:
        names = result.plan.network.labels or result.classes
        if len(names) < result.map.shape[2]:
            names = ("background", *names)
        for number, name in enumerate(names):
            options = view.placed(name, colormap=_COLOURS[number % len(_COLOURS)], blending="additive")
            options |= {"contrast_limits": (0, 1), "opacity": 0.5, "metadata": made}
            found.insert(0, (view.lifted(result.map[..., number]), options, "image"))
    return found


def features_of(view: View, result: Segmentation) -> dict[str, AnyArray]:
    """Make features of a table: `index` is the label; positions are in px of the plane, not of the view."""
    table = {name: np.asarray(column) for name, column in result.objects.table.items()}
    classes = np.array(["", *result.classes])[table.pop("class").astype(int)]
    size = result.pixel_size
    for axis, names in enumerate((_ROW_COLUMNS, _COLUMN_COLUMNS)):
        for name in names:
            table[name] = table[name] + view.origin[axis]
            if size is not None and f"{name}_um" in table:
                table[f"{name}_um"] = table[f"{name}_um"] + view.origin[axis] * (size.y, size.x)[axis]
    return {"index": table.pop("label"), "class": classes, **table}


def sample_smear() -> list[tuple[AnyArray, dict[str, Any], str]]:
    """Make the image that the model ``demo`` segments, as a layer."""
    image = smear(1440, 1920, seed=1, cell_px=(250, 400)).image
    return [(image, {"name": "smear", "rgb": True}, "image")]


def _level0(layer: Any) -> Any:
    return layer.data[0] if layer.multiscale else layer.data


def _check_axes(layer: Any, dims: Any) -> None:
    """Refuse a view in 3D, and one whose two axes on screen are not the layer's last two."""
    if layer.ndim < 2 or dims.ndisplay != 2 or tuple(dims.displayed) != (dims.ndim - 2, dims.ndim - 1):
        axes = ", ".join(map(str, dims.displayed))
        fix = (
            "Show the image in 2D, with its last two axes as rows and columns (the buttons below the layers)."
        )
        raise invalid(
            ArrayError, layer.name, must="be shown by rows and columns", got=f"axes {axes}", fix=fix
        )


def _opaque(part: AnyArray) -> AnyArray:
    """Leave out an alpha channel that is opaque everywhere."""
    full = np.iinfo(part.dtype).max if np.issubdtype(part.dtype, np.integer) else 1
    if (part[..., 3] != full).any():
        fix = "Add the image as RGB: viewer.add_image(image[..., :3])."
        raise invalid(ArrayError, "the layer", must="be opaque", got="an alpha channel that is not", fix=fix)
    return part[..., :3]
