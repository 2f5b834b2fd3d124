"""The choice of a Predictor; Keras and OpenVINO are touched only where they are used."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import lazy_loader

from tiledseg._validate import invalid, one_of
from tiledseg.engine._callable import CallablePredictor
from tiledseg.engine._halving import Halving
from tiledseg.engine._views import Viewed, Views, n_views
from tiledseg.engine.network import SegmenterLike
from tiledseg.errors import ModelError, SettingError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tiledseg._types import AnyArray, FloatArray
    from tiledseg.engine import _device, _keras, _openvino, _replicas
    from tiledseg.engine.network import Predictor
else:
    _device = lazy_loader.load("tiledseg.engine._device", suppress_warning=True)
    _keras = lazy_loader.load("tiledseg.engine._keras", suppress_warning=True)
    _openvino = lazy_loader.load("tiledseg.engine._openvino", suppress_warning=True)
    _replicas = lazy_loader.load("tiledseg.engine._replicas", suppress_warning=True)

__all__ = ["Engine", "Precision", "Way", "fastest", "n_devices", "networks_for", "predictor_for"]

Engine: TypeAlias = Literal["auto", "keras", "openvino"]
"""``auto`` takes OpenVINO where that pays."""
Precision: TypeAlias = Literal["f32", "bf16"]
"""Numbers that a network multiplies; ``bf16`` is OpenVINO's alone."""

_log = logging.getLogger("tiledseg")
_WORTH = 1e12  # multiplications, some 10 s of two cores: conversion takes a few


def predictor_for(model: object) -> Predictor:
    """Make a network ready to be called on batches of tiles."""
    if isinstance(model, SegmenterLike):
        model = model.network
    if _is_keras(model):
        return _keras.KerasPredictor(model)
    if all(hasattr(model, name) for name in ("channels", "classes", "tile_size", "stride", "bytes_per_tile")):
        ready: Predictor = model  # type: ignore[assignment]
        return ready
    if not callable(model):
        raise invalid(
            ModelError,
            "model",
            must="be a Segmenter, a keras.Model or a callable",
            got=type(model).__name__,
            fix="Load a saved one with tiledseg.load_model."
            if isinstance(model, str)
            else "Pass the network itself.",
        )
    return CallablePredictor(model)


def fastest(
    predictor: Predictor, n_px: int, engine: Engine = "auto", precision: Precision = "f32"
) -> Predictor:
    """Take the engine asked for, or the one that will be done first."""
    one_of("engine", engine, get_args(Engine))
    one_of("precision", precision, get_args(Precision))
    if precision == "bf16" and engine == "keras":
        raise invalid(
            SettingError,
            "precision",
            must="be f32 with engine='keras'",
            got=precision,
            fix="Use engine='openvino', or set the network's own dtype policy.",
        )
    if engine == "keras":
        return predictor
    asked = engine == "openvino" or precision == "bf16"
    obstacle = _obstacle(predictor)
    if obstacle is not None:
        if asked:
            what = "engine" if engine == "openvino" else "precision"
            raise invalid(ModelError, what, must="be one that can be had", got=obstacle, fix=_FIX)
        return predictor
    keras: _keras.KerasPredictor = predictor  # type: ignore[assignment]
    if not asked and (_device.n_gpus() or keras.work(n_px) < _WORTH):
        return predictor
    if precision == "bf16" and not _openvino.computes_bf16():
        _log.warning("This processor does not multiply bf16: f32 is used.")
        precision = "f32"
    return _openvino.OpenVinoPredictor(keras, precision, must=asked)


@dataclass(frozen=True, slots=True)
class Way:
    """How a network is run.

    Attributes
    ----------
    engine : {"auto", "keras", "openvino"}
        As for `fastest`.
    precision : {"f32", "bf16"}
        As for `fastest`.
    views : {"flips", "d4"} or None
        Sides from which each tile is seen.
    devices : sequence of str or None
        Names of the devices that run it at the same time; all GPUs where it is None.
    """

    engine: Engine = "auto"
    precision: Precision = "f32"
    views: Views | None = None
    devices: Sequence[str] | None = None

    def __post_init__(self) -> None:
        """Check the choices by themselves."""
        if self.views is not None:
            one_of("views", self.views, get_args(Views))
        named = isinstance(self.devices, list | tuple) and all(isinstance(one, str) for one in self.devices)
        if self.devices is not None and not (named and self.devices):
            raise invalid(
                SettingError,
                "devices",
                must="be names of devices, at least one",
                got=self.devices,
                fix='Give for example ("GPU:0", "GPU:1"), or None for all GPUs.',
            )


def networks_for(
    predictor: Predictor, way: Way, tile_size: tuple[int, int], n_tiles: int, batch_size: int
) -> list[Callable[[AnyArray], FloatArray]]:
    """Make a network ready to be run, once for each device."""
    if way.views == "d4" and tile_size[0] != tile_size[1]:
        raise invalid(
            SettingError, "views", must="be flips for tiles that are not square", got="d4", fix="Use flips."
        )
    engine = way.engine if way.devices is None or way.engine == "openvino" else "keras"
    n_px = n_tiles * n_views(way.views) * tile_size[0] * tile_size[1]
    quick = fastest(predictor, n_px, engine, way.precision)
    networks = [
        Halving(one) for one in ([quick] if quick is not predictor else _copies(predictor, way.devices))
    ]
    if way.views is None:
        return list(networks)
    return [Viewed(one, way.views, batch_size) for one in networks]


def n_devices(predictor: Predictor) -> int:
    """Count the devices that `networks_for` takes by itself."""
    if type(predictor).__module__ != "tiledseg.engine._keras" or _device.backend() != "tensorflow":
        return 1
    return max(1, _device.n_gpus())


def _copies(predictor: Predictor, devices: Sequence[str] | None) -> list[Predictor]:
    if type(predictor).__module__ == "tiledseg.engine._keras":
        keras: _keras.KerasPredictor = predictor  # type: ignore[assignment]
        return _replicas.replicas(keras, devices)
    if devices is not None:
        raise invalid(
            ModelError,
            "devices",
            must="be None but for a Keras network",
            got=type(predictor).__name__,
            fix="Choose the device within the callable.",
        )
    return [predictor]


_FIX = "OpenVINO runs Keras networks on the TensorFlow backend: pip install 'tiledseg[fast]'."


def _obstacle(predictor: Predictor) -> str | None:
    """Say why OpenVINO cannot run a network; None where it can be tried."""
    kind = type(predictor)
    if kind.__module__ != "tiledseg.engine._keras":
        return f"OpenVINO for a {kind.__name__}"
    if find_spec("openvino") is None:
        return "OpenVINO, which is not installed"
    if _device.backend() != "tensorflow":
        return f"OpenVINO on the {_device.backend()} backend"
    return None


def _is_keras(model: object) -> bool:
    """Recognise a keras.Model without loading Keras."""
    return any(
        kind.__name__ == "Model" and kind.__module__.partition(".")[0] == "keras"
        for kind in type(model).__mro__
    )
