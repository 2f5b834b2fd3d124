"""Steps before and after the network of a package, read by the names of the specification."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from tiledseg._validate import invalid
from tiledseg.config import PixelStep
from tiledseg.errors import BundleError, SettingError

if TYPE_CHECKING:
    from collections.abc import Callable

_EPS = 1e-6


def refused(
    what: str, must: str, got: object, fix: str = "Ask its author for another package."
) -> BundleError:
    """Return the error for a package that cannot be used."""
    return invalid(BundleError, what, must=must, got=got, fix=fix)


def steps_of(tensor: dict[str, Any], kind: str, where: str) -> tuple[PixelStep, ...]:
    """Read the steps before or after the network, with the casts that the specification adds."""
    stated = tensor.get(kind) or []
    data = tensor.get("data") if isinstance(tensor.get("data"), dict) else {}
    dtype = str(data.get("type", "float32")) if isinstance(data, dict) else "float32"
    if not isinstance(stated, list) or not all(isinstance(one, dict) for one in stated):
        raise refused(f"{where}: {kind}", "be a list of steps", stated)
    has_channels = any(one.get("type") == "channel" for one in tensor["axes"])
    steps = [_step(one, f"{where}: {kind}", has_channels=has_channels) for one in stated]
    cast = _made({"op": "cast", "dtype": _dtype(dtype, where)}, where)
    if kind == "postprocessing":
        while steps and steps[-1].op == "cast":
            steps.pop()
        _check_after(steps, f"{where}: {kind}")
        return tuple(one for one in steps if one.op != "cast")
    if not steps or steps[0].op != "cast":
        steps.insert(0, cast)
    if steps[-1].op not in {"cast", "binarize"}:
        steps.append(cast)
    return tuple(steps)


def _check_after(steps: list[PixelStep], where: str) -> None:
    """Refuse what cannot be done tile by tile, or inside an ONNX file."""
    for place, one in enumerate(steps):
        whole = one.op in {"standardize", "range"} or (
            one.op == "clip" and (one.least, one.most) == (None, None)
        )
        if whole or (one.op == "cast" and "float" not in one.dtype):
            what = "a statistic of the whole output" if whole else f"a cast to {one.dtype} between steps"
            raise refused(where, "need one px of the output at a time", what)
        if one.op == "binarize" and place < len(steps) - 1:
            raise refused(where, "have binarize as the last step", steps[place + 1].op)


_KEYS = {
    "ensure_dtype": {"dtype"},
    "scale_linear": {"gain", "offset", "axis"},
    "clip": {"min", "max", "min_percentile", "max_percentile", "axes"},
    "binarize": {"threshold", "axis"},
    "sigmoid": set(),
    "softmax": {"axis"},
    "zero_mean_unit_variance": {"axes", "eps", "mode"},
    "fixed_zero_mean_unit_variance": {"mean", "std", "axis"},
    "scale_range": {"axes", "min_percentile", "max_percentile", "eps", "reference_tensor", "mode"},
}


def _step(stated: dict[str, Any], where: str, *, has_channels: bool) -> PixelStep:
    name, kwargs = str(stated.get("id", stated.get("name"))), stated.get("kwargs") or {}
    if name not in _KEYS:
        fix = f"Known: {', '.join(_KEYS)}."
        raise refused(where, "consist of steps that this library knows", name, fix)
    unknown = sorted(set(kwargs) - _KEYS[name]) if isinstance(kwargs, dict) else ["kwargs"]
    if unknown or kwargs.get("reference_tensor") is not None:
        raise refused(f"{where}: {name}", "have known arguments", unknown or "a reference_tensor")
    if kwargs.get("axis", "channel") != "channel":
        raise refused(f"{where}: {name}", "be along the channels", kwargs["axis"])
    return _made(_ARGUMENTS[name](kwargs, f"{where}: {name}", has_channels), f"{where}: {name}")


def _made(fields: dict[str, Any], where: str) -> PixelStep:
    try:
        return PixelStep(**fields)
    except SettingError as error:
        raise refused(where, "have arguments of the right types", str(error)) from None


def _dtype(name: object, where: str) -> str:
    if isinstance(name, str) and re.fullmatch(r"bool|u?int(8|16|32|64)|float(32|64)", name):
        return name
    raise refused(where, "name a dtype", name)


def _per_channel(kwargs: dict[str, Any], where: str, has_channels: bool) -> bool:  # noqa: FBT001
    """Say whether a statistic is that of each channel."""
    axes = kwargs.get("axes")
    if axes is None:
        return False
    if isinstance(axes, str):
        axes = [{"b": "batch", "c": "channel"}.get(one, one) for one in axes]
    if not isinstance(axes, list) or not {"x", "y"} <= set(map(str, axes)) <= {"batch", "channel", "x", "y"}:
        raise refused(where, "take its statistic over y and x", axes)
    return has_channels and "channel" not in axes


def _floats(value: Any) -> tuple[float, ...]:  # noqa: ANN401
    values = value if isinstance(value, list) else [value]
    return tuple(float(one) if type(one) in {int, float} else one for one in values)


def _linear(kwargs: dict[str, Any], _where: str, _channels: bool) -> dict[str, Any]:  # noqa: FBT001
    return {
        "op": "linear",
        "gain": _floats(kwargs.get("gain", 1)),
        "offset": _floats(kwargs.get("offset", 0)),
    }


def _fixed(kwargs: dict[str, Any], where: str, _channels: bool) -> dict[str, Any]:  # noqa: FBT001
    mean, std = (_floats(kwargs.get(name)) for name in ("mean", "std"))
    if len(mean) != len(std) or not all(type(one) is float for one in mean + std) or min(std) <= 0:
        raise refused(where, "have as many positive std as mean", kwargs)
    gain = [1 / (one + _EPS) for one in std]
    return {
        "op": "linear",
        "gain": tuple(gain),
        "offset": tuple(-m * g for m, g in zip(mean, gain, strict=True)),
    }


def _clip(kwargs: dict[str, Any], where: str, has_channels: bool) -> dict[str, Any]:  # noqa: FBT001
    limits = [kwargs.get(name) for name in ("min", "max")]
    shares = [kwargs.get(name) for name in ("min_percentile", "max_percentile")]
    if shares == [None, None] and limits != [None, None]:
        low, high = (None if one is None else _floats(one)[0] for one in limits)
        return {"op": "clip", "least": low, "most": high}
    if None in shares or limits != [None, None]:
        raise refused(where, "have limits, or two percentiles", kwargs)
    return {
        "op": "clip",
        "percentiles": _floats(shares),
        "per_channel": _per_channel(kwargs, where, has_channels),
    }


def _standardized(kwargs: dict[str, Any], where: str, has_channels: bool) -> dict[str, Any]:  # noqa: FBT001
    eps = _floats(kwargs.get("eps", _EPS))[0]
    return {"op": "standardize", "eps": eps, "per_channel": _per_channel(kwargs, where, has_channels)}


def _ranged(kwargs: dict[str, Any], where: str, has_channels: bool) -> dict[str, Any]:  # noqa: FBT001
    shares = _floats([kwargs.get("min_percentile", 0), kwargs.get("max_percentile", 100)])
    if not all(type(one) is float and 0 <= one <= 100 for one in shares) or shares[0] >= shares[1]:
        raise refused(where, "have rising percentiles in [0, 100]", shares)
    return _standardized(kwargs, where, has_channels) | {"op": "range", "percentiles": shares}


_ARGUMENTS: dict[str, Callable[[dict[str, Any], str, bool], dict[str, Any]]] = {
    "ensure_dtype": lambda kwargs, where, _: {"op": "cast", "dtype": _dtype(kwargs.get("dtype"), where)},
    "scale_linear": _linear,
    "clip": _clip,
    "binarize": lambda kwargs, _where, _: {"op": "binarize", "threshold": _floats(kwargs.get("threshold"))},
    "sigmoid": lambda _kwargs, _where, _: {"op": "sigmoid"},
    "softmax": lambda _kwargs, _where, _: {"op": "softmax"},
    "zero_mean_unit_variance": _standardized,
    "fixed_zero_mean_unit_variance": _fixed,
    "scale_range": _ranged,
}
