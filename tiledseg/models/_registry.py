"""Architectures by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from tiledseg._checks import broken, did_you_mean
from tiledseg.config import UNetConfig
from tiledseg.errors import SettingError
from tiledseg.models._unet import UNetBuilder

if TYPE_CHECKING:
    from tiledseg._backend import keras

__all__ = ["build_model", "builder_for"]

_ARCHITECTURES = {"unet": (UNetConfig, UNetBuilder)}


def build_model(config: UNetConfig | Mapping[str, object]) -> keras.Model:
    """Build a network by its settings.

    Parameters
    ----------
    config : UNetConfig or mapping
        Settings of an architecture; a mapping has its ``name`` and any of its settings.

    Returns
    -------
    keras.Model
        Maps images (N, H, W, C) to outputs (N, H, W, K) float32.

    Raises
    ------
    SettingError
        If the name or a setting is not known, or a value cannot be used.

    Examples
    --------
    >>> build_model({"name": "unet", "levels": 2, "base_filters": 4, "input_shape": (64, 64, 3)}).output_shape
    (None, 64, 64, 1)
    """
    return builder_for(config).build()


def builder_for(config: UNetConfig | Mapping[str, object]) -> UNetBuilder:
    """Find the builder for settings of an architecture.

    Parameters
    ----------
    config : UNetConfig or mapping
        Settings of an architecture; a mapping has its ``name`` and any of its settings.

    Returns
    -------
    UNetBuilder
        Ready to build.

    Raises
    ------
    SettingError
        If the name or a setting is not known, or a value cannot be used.
    """
    if isinstance(config, UNetConfig):
        return UNetBuilder(config)
    if not isinstance(config, Mapping):
        raise broken(
            SettingError,
            "config",
            must="be settings of an architecture, or a mapping of them",
            got=type(config).__name__,
            fix='Give for example {"name": "unet"}.',
        )
    settings, builder = _named(config.get("name"))
    return builder(settings.model_validate(dict(config)))


def _named(name: object) -> tuple[type[UNetConfig], type[UNetBuilder]]:
    if not isinstance(name, str) or name not in _ARCHITECTURES:
        raise broken(
            SettingError,
            "name",
            must="be an architecture",
            got=name,
            fix=did_you_mean(str(name), _ARCHITECTURES),
        )
    return _ARCHITECTURES[name]
