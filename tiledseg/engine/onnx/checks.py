"""What is wrong with an operation at any size of the input: engines would say so only when they run it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from tiledseg._validate import invalid
from tiledseg.engine.onnx.tensors import kinds_of, layout_of, name_of, optional, shape_of
from tiledseg.errors import BundleError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tiledseg.engine.onnx.file import Node
    from tiledseg.engine.onnx.tensors import Inputs, Value, Walk

__all__ = ["check_channels", "check_conv", "check_product", "check_scales", "check_sizes", "check_steps"]

_LARGEST_SCALE = 4096
_MOST_NUMBERS = 1 << 31  # of a map


def _wrong(node: Node, must: str, got: object, fix: str = "Export the network again.") -> BundleError:
    return invalid(BundleError, name_of(node), must=must, got=got, fix=fix)


def check_steps(node: Node, kernel: Sequence[int]) -> None:
    """Refuse windows, strides and dilations of less than one px."""
    stated = {name: node.attributes.get(name, [1]) for name in ("strides", "dilations")}
    for name, values in ({"kernel_shape": kernel} | stated).items():
        if min(values, default=1) < 1:
            raise _wrong(node, f"have `{name}` of at least 1", list(values))


def check_conv(walk: Walk, node: Node, inputs: Inputs, taken: int, made: int) -> None:
    """Refuse weights that do not fit the channels of the map; `taken` and `made` are those of the weights."""
    value, shape, group = inputs[0], shape_of(inputs[1]), node.attributes.get("group", 1)
    if group < 1 or made % group:
        raise _wrong(node, f"have `group` as a divisor of its {made} output channels", group)
    stated = node.attributes.get("kernel_shape")
    if stated is not None and tuple(stated) != shape[2:]:
        raise _wrong(node, f"have the `kernel_shape` of its weights {shape}", list(stated))
    if walk.knows_channels and value and _plain(value, 1) and shape_of(value)[1] != taken:
        must = f"have weights for the {shape_of(value)[1]} channels of its input"
        raise _wrong(node, must, f"weights of shape {shape} for {taken} channels")
    bias = optional(inputs, 2)
    if bias is not None and shape_of(bias) != (made,):
        raise _wrong(node, f"have a bias of shape ({made},)", shape_of(bias))


def check_channels(walk: Walk, node: Node, inputs: Inputs) -> None:
    """Refuse constants that should have one number for each channel, the second axis, and have not."""
    value = inputs[0]
    if not walk.knows_channels or value is None or not _plain(value, 1):
        return
    channels = shape_of(value)[1]
    for one in inputs[1:]:
        if one and one.shape not in {None, (channels,)}:
            raise _wrong(
                node, f"have constants of shape ({channels},), one number for each channel", one.shape
            )


def check_product(walk: Walk, node: Node, a: Value, b: Value) -> None:
    """Refuse a product with weights of another length."""
    one, two = shape_of(a)[-1], shape_of(b)[-2]
    with_weights = (a.layout is None) != (b.layout is None)
    if one != two and walk.knows_channels and with_weights and _plain(a, -1) and _plain(b, -2):
        got = f"{shape_of(a)} and {shape_of(b)}"
        raise _wrong(node, "multiply matrices whose inner lengths are equal", got)


def check_scales(node: Node, scales: Sequence[float]) -> None:
    """Refuse scales by which no map has a sensible size."""
    for scale in scales:
        if not 0 < scale <= _LARGEST_SCALE:
            raise _wrong(node, f"resize by a scale in (0, {_LARGEST_SCALE}]", f"{scale:g}")


def check_sizes(node: Node, sizes: Sequence[int]) -> None:
    """Refuse sizes that are fixed, and that no map has."""
    if min(sizes, default=1) < 1 or math.prod(sizes) > _MOST_NUMBERS:
        must = f"resize to sizes of at least 1 and maps of at most {_MOST_NUMBERS} numbers"
        raise _wrong(node, must, list(sizes))


def _plain(value: Value, axis: int) -> bool:
    """Say whether an axis has channels alone."""
    return kinds_of(layout_of(value), [axis]) <= {"c"}
