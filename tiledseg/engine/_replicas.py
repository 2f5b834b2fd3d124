"""The same Keras network on each of several devices of one machine."""

from __future__ import annotations

import logging
import weakref
from typing import TYPE_CHECKING, Any

from tiledseg._backend import keras, tf
from tiledseg._validate import invalid, shown
from tiledseg.engine._keras import KerasPredictor
from tiledseg.errors import ModelError, SettingError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tiledseg.engine.network import Predictor

__all__ = ["replicas"]

_log = logging.getLogger("tiledseg")
_COPIES: weakref.WeakKeyDictionary[Any, dict[str, tuple[bytes, Any]]] = weakref.WeakKeyDictionary()
"""Networks by device, with the fingerprint of the weights that they were given."""


def replicas(predictor: KerasPredictor, devices: Sequence[str] | None) -> list[Predictor]:
    """Copy a network to devices."""
    if keras.backend.backend() != "tensorflow":
        if devices is None:
            return [predictor]
        raise invalid(
            ModelError,
            "devices",
            must="be None on another backend than TensorFlow",
            got=keras.backend.backend(),
            fix="Choose the device by the backend's own means.",
        )
    known = [device.name.removeprefix("/device:") for device in tf.config.list_logical_devices()]
    names = [name for name in known if name.startswith("GPU")] if devices is None else list(devices)
    if devices is None and len(names) < 2:
        return [predictor]
    for name in names:
        if name not in known:
            raise invalid(
                SettingError,
                "devices",
                must=f"be some of {', '.join(known)}",
                got=name,
                fix="Use names of tf.config.list_logical_devices().",
            )
    try:
        return [KerasPredictor(_copy(predictor, name), name) for name in names]
    except (ValueError, TypeError, NotImplementedError) as error:  # Keras copies no subclassed network
        if devices is None:
            _log.warning("The network cannot be copied to other devices: %s", shown(str(error)))
            return [predictor]
        raise invalid(
            ModelError,
            "devices",
            must="be None for a network that Keras cannot copy",
            got=str(error),
            fix="Build it with keras.Input.",
        ) from None


def _copy(predictor: KerasPredictor, device: str) -> Any:  # noqa: ANN401
    copies = _COPIES.setdefault(predictor.model, {})
    fingerprint, copy = copies.get(device, (b"", None))
    if fingerprint != predictor.fingerprint:
        with tf.device(device):
            copy = copy or keras.models.clone_model(predictor.model)
            copy.set_weights(predictor.model.get_weights())
        copies[device] = (predictor.fingerprint, copy)
    return copy
