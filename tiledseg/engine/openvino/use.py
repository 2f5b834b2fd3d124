"""One use of a layer, from which an engine takes settings, arguments and weights until none is left over."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from tiledseg._lazy import lazy
from tiledseg.engine.layers import UnsupportedError, maps_in

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import TypeAlias

    import openvino
    from numpy.typing import NDArray

    from tiledseg._types import AnyArray, FloatArray
    from tiledseg.engine.layers import Layer

    Output: TypeAlias = Any  # of an operation; OpenVINO has few types
    Norm: TypeAlias = tuple[NDArray[np.float64], NDArray[np.float64]]  # scale and offset of each channel
else:
    openvino = lazy("openvino")

CHANNELS = 1  # axis of (N, C, h, w)


class Use:
    """One use of a layer: it notes which settings, arguments and weights have been taken."""

    def __init__(
        self,
        layer: Layer,
        maps: Mapping[int, Output],
        weights: Mapping[str, FloatArray],
        norm: Norm | None = None,
    ) -> None:
        self.kind, self.norm = layer.kind, norm  # the batch normalisation that this convolution does as well
        self._settings = dict(layer.config)
        self._args, self._kwargs = list(layer.args), dict(layer.kwargs)
        self._paths, self._weights, self._maps = dict(layer.weights), weights, maps

    def refuse(self, what: str) -> UnsupportedError:
        """Return the error for what is not known."""
        return UnsupportedError(f"{self.kind}: {what} is not known")

    def check_finished(self) -> None:
        """Refuse whatever has not been taken."""
        left = [*self._settings, *self._paths, *self._kwargs, *map(str, self._args)]
        if left:
            raise self.refuse(left[0])

    def take(self, name: str) -> Any:
        """Take a setting of any value."""
        if name not in self._settings:
            raise self.refuse(f"a layer without {name}")
        return self._settings.pop(name)

    def ignore(self, *names: str) -> None:
        """Take settings that do not change the output, where they are stated."""
        for name in names:
            self._settings.pop(name, None)

    def one_of(self, name: str, *known: Any) -> Any:
        """Take a setting that has one of the known values."""
        value = self.take(name)
        if not any(type(value) is type(one) and value == one for one in known):
            raise self.refuse(f"{name}={value!r}")
        return value

    def number(self, name: str) -> float:
        """Take a finite number."""
        value = self.take(name)
        if type(value) not in {int, float} or not math.isfinite(value):
            raise self.refuse(f"{name}={value!r}")
        return float(value)

    def pair(self, name: str) -> tuple[int, int]:
        """Take two positive whole numbers."""
        value = self.take(name)
        both = value if isinstance(value, list) else [value, value]
        if len(both) != 2 or any(type(one) is not int or one < 1 for one in both):
            raise self.refuse(f"{name}={value!r}")
        return both[0], both[1]

    def edges(self, name: str) -> list[list[int]]:
        """Take px at the start and the end of y and x."""
        value = self.take(name)
        flat = [one for pair in value for one in pair] if isinstance(value, list) else []
        if len(value) != 2 or len(flat) != 4 or any(type(one) is not int or one < 0 for one in flat):
            raise self.refuse(f"{name}={value!r}")
        return [list(pair) for pair in value]

    def weight(self, name: str, *shape: int) -> FloatArray:
        """Take a weight of a shape; -1 stands for any length."""
        if name not in self._paths:
            raise self.refuse(f"a layer without {name}")
        values = self._weights[self._paths.pop(name)]
        if len(shape) != values.ndim or any(
            one not in {-1, two} for one, two in zip(shape, values.shape, strict=True)
        ):
            raise self.refuse(f"{name} of shape {values.shape} in place of {shape}")
        return values

    def only_weight(self, *shape: int) -> FloatArray:
        """Take the one weight of a layer that gives it no name."""
        if len(self._paths) != 1:
            raise self.refuse(f"a layer of {len(self._paths)} weights")
        return self.weight(next(iter(self._paths)), *shape)

    def inputs(self, *ranks: int) -> list[Output]:
        """Take all arguments, which are maps, or one list of maps."""
        args = self._args[0] if len(self._args) == 1 and isinstance(self._args[0], list) else self._args
        if not args or any(not isinstance(one, dict) or one.keys() != {"map"} for one in args):
            raise self.refuse(f"an argument among {args}")
        found = [self._maps[number] for number in maps_in(args)]
        for one in found:
            if rank(one) not in ranks:
                raise self.refuse(f"an input of {rank(one)} axes")
        self._args = []
        return found

    def input(self, *ranks: int) -> Output:
        """Take the only argument, which is a map."""
        found = self.inputs(*(ranks or (4,)))
        if len(found) != 1:
            raise self.refuse(f"{len(found)} inputs")
        return found[0]

    def operands(self) -> list[Output]:
        """Take the arguments of an operation, maps or numbers."""
        found = []
        for one in self._args:
            number = type(one) in {int, float} and math.isfinite(one)
            if not number and not (isinstance(one, dict) and one.keys() == {"map"}):
                raise self.refuse(f"the argument {one!r}")
            found.append(constant(one) if number else self._maps[one["map"]])
        if {rank(one) for one in found} - {0} != {4}:
            raise self.refuse("an operand that is no map")
        self._args = []
        return found


def shape(x: Output) -> list[int]:
    """Return the shape of an array."""
    return list(x.get_output_shape(0)) if hasattr(x, "get_output_shape") else list(x.shape)


def rank(x: Output) -> int:
    """Return the number of axes of an array."""
    return len(shape(x))


def constant(values: Any, *, owned: bool = False) -> Output:
    """Make a constant of float32; of an array that nothing else uses, without a copy."""
    return openvino.op.Constant(np.asarray(values, np.float32, order="C"), shared_memory=owned)


def along_channels(values: AnyArray, x: Output) -> Output:
    """Lay a value per channel along the channels of an array."""
    return constant(values.reshape(-1, 1, 1) if rank(x) == 4 else values)


def channels(x: Output) -> int:
    """Return the number of channels."""
    return shape(x)[CHANNELS if rank(x) == 4 else -1]
