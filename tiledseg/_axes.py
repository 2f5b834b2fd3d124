"""Axes that have names, as those of xarray: which of them are y, x and the channels."""

from __future__ import annotations

from typing import Any

from tiledseg.errors import ArrayError

_AXES = {
    "y": {"y", "row", "rows", "height", "lat", "latitude"},
    "x": {"x", "column", "columns", "col", "width", "lon", "longitude"},
    "c": {"c", "channel", "channels", "band", "bands", "rgb"},
}


def by_name(values: Any, name: str) -> Any:  # noqa: ANN401  arrays of all libraries
    """Give an array of xarray with its axes in the order y, x, channel; give anything else back."""
    if not _is_named(values):
        return values
    order, others = _order(values, name)
    return values.isel(dict.fromkeys(others, 0)).transpose(*order).data


def check_order(values: Any, name: str) -> None:  # noqa: ANN401
    """Refuse an array of xarray whose axes, where they are taken by their position, have another order."""
    if _is_named(values) and list(values.dims) != (order := _order(values, name)[0]):
        how = f"{name}.transpose({', '.join(map(repr, order))})"
        raise ArrayError(
            f"`{name}` must have its axes in the order {', '.join(map(str, order))} here; got "
            f"{', '.join(map(str, values.dims))}. Pass {how}, with one position of each other axis selected."
        )


def _is_named(values: Any) -> bool:  # noqa: ANN401
    return type(values).__module__.partition(".")[0] == "xarray" and hasattr(values, "dims")


def _order(values: Any, name: str) -> tuple[list[Any], list[Any]]:  # noqa: ANN401
    """Find the axes y, x and channel by their names, and others, each of which must have a length of 1."""
    named = {kind: [axis for axis in values.dims if str(axis).lower() in _AXES[kind]] for kind in _AXES}
    order = [axes[0] for axes in named.values() if axes]
    others = [axis for axis in values.dims if axis not in order]
    is_clear = all(len(axes) <= 1 for axes in named.values()) and named["y"] and named["x"]
    if not is_clear or any(values.sizes[axis] != 1 for axis in others):
        raise ArrayError(
            f"`{name}` must have the dimensions y, x and channel; got {dict(values.sizes)}. "
            "Rename them, or select one position of each other one."
        )
    return order, others
