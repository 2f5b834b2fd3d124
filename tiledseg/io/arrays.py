"""Images that other libraries hold in memory, as arrays; no library is imported for it."""

from __future__ import annotations

from typing import Any

import numpy as np

from tiledseg._validate import invalid
from tiledseg.errors import ArrayError

_AXES = {
    "y": {"y", "row", "rows", "height", "lat", "latitude"},
    "x": {"x", "column", "columns", "col", "width", "lon", "longitude"},
    "c": {"c", "channel", "channels", "band", "bands", "rgb"},
}
_MODES = ("1", "L", "RGB", "RGBA", "I;16", "I", "F")  # of Pillow, whose px need no conversion


def as_array(image: Any) -> Any:  # noqa: ANN401  arrays of all libraries
    """Give an image of Pillow, xarray, PyTorch or TensorFlow as an array; give anything else back."""
    library = type(image).__module__.partition(".")[0]
    if library == "PIL" and hasattr(image, "mode"):
        return _of_pillow(image)
    if library == "xarray" and hasattr(image, "dims"):
        return _of_xarray(image)
    if library in {"torch", "tensorflow"} and hasattr(image, "shape"):
        return _of_tensor(image)
    return image


def _of_pillow(image: Any) -> Any:  # noqa: ANN401
    if image.mode not in _MODES:
        fix = 'Convert it with image.convert("RGB").'
        raise invalid(ArrayError, "image", must="be grey or RGB", got=f"mode {image.mode}", fix=fix)
    return np.asarray(image)


def _of_xarray(image: Any) -> Any:  # noqa: ANN401
    """Take the axes by their names; an axis of another name must have a length of 1."""
    named = {kind: [axis for axis in image.dims if str(axis).lower() in _AXES[kind]] for kind in _AXES}
    order = [axes[0] for axes in named.values() if axes]
    others = [axis for axis in image.dims if axis not in order]
    is_clear = all(len(axes) <= 1 for axes in named.values()) and named["y"] and named["x"]
    if not is_clear or any(image.sizes[axis] != 1 for axis in others):
        fix = "Rename them, or select one position of each other one."
        must, got = "have the dimensions y, x and channel", dict(image.sizes)
        raise invalid(ArrayError, "image", must=must, got=got, fix=fix)
    return image.isel(dict.fromkeys(others, 0)).transpose(*order).data


def _of_tensor(image: Any) -> Any:  # noqa: ANN401
    try:
        return np.asarray(image)
    except (TypeError, ValueError, RuntimeError, NotImplementedError) as error:
        fix = "Pass image.detach().cpu().float().numpy(), channels last."
        got = f"{type(image).__name__}: {error}"
        raise invalid(ArrayError, "image", must="be readable as an array", got=got, fix=fix) from None
