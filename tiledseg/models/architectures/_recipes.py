"""How a backbone is made: the configuration of a network of ``keras.applications``, brought into form."""

from __future__ import annotations

import random
import re
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from functools import lru_cache
from inspect import signature
from typing import TYPE_CHECKING, Any, TypeAlias

from tiledseg._backend import keras

if TYPE_CHECKING:
    from tiledseg.models.architectures._backbones import Backbone

__all__ = ["IMAGE", "Recipe", "behind", "dilated", "from_keras", "new_names", "recipe", "sources"]

Recipe: TypeAlias = dict[str, dict[str, Any]]
"""Configurations of layers by name, in the order of computation."""

IMAGE = "image"
_MOMENTUM = 0.9  # as in the other blocks: Keras' own lags for hundreds of steps
_PUBLISHED = (224, 224, 3)  # at another size Keras warns
_OF_ITS_OWN = frozenset({"Rescaling", "Normalization"})


def from_keras(backbone: Backbone, channels: int, weights: str | None = None) -> keras.Model:
    """Build a backbone as ``keras.applications`` does, without its top."""
    kind = getattr(keras.applications, backbone.source)
    options = (
        {"include_preprocessing": False} if "include_preprocessing" in signature(kind).parameters else {}
    )
    if weights:
        return kind(include_top=False, weights=weights, input_shape=_PUBLISHED, **options)
    image = keras.layers.Input((None, None, channels))
    return kind(include_top=False, weights=None, input_tensor=image, **options)


def recipe(backbone: Backbone, channels: int) -> Recipe:
    """Say how a backbone is made, the same in every process and at any size of image.

    Names that Keras numbers through are counted from 0 within the network; the preprocessing of
    its own is taken out; windows that overlap are padded, so that the maps halve exactly.
    """
    return deepcopy(_recipe(backbone, channels))


@lru_cache(maxsize=16)
def _recipe(backbone: Backbone, channels: int) -> Recipe:
    # A thread of its own: Keras keeps a list, per thread, of variables that still need values.
    with ThreadPoolExecutor(1) as thread:
        layers = thread.submit(_drawn_up, backbone, channels).result()
    names, made = new_names(layers, lite=backbone.lite), {}
    for layer in layers:
        if not _left_out(layer, lite=backbone.lite):
            made[names[layer["name"]]] = _in_form(layer, names)
            if backbone.lite and layer["class_name"] == "Activation":
                made[names[layer["name"]]]["config"]["activation"] = "relu6"
    for layer in made.values():
        _pad(layer, made)
    return made


def _drawn_up(backbone: Backbone, channels: int) -> list[dict[str, Any]]:
    """Build a backbone without giving its weights values."""
    state = random.getstate()  # Keras draws the seeds of layers from it: a recipe must not cost any
    try:
        with keras.StatelessScope(initialize_variables=False):
            layers: list[dict[str, Any]] = from_keras(backbone, channels).get_config()["layers"]
    finally:
        random.setstate(state)
    return layers


def new_names(layers: list[dict[str, Any]], *, lite: bool = False) -> dict[str, str]:
    """Name the layers of a network, those afresh that Keras numbered through."""
    names: dict[str, str] = {}
    counted: dict[str, int] = {}
    for layer in layers:
        kind, name = layer["class_name"], layer["name"]
        stem = re.sub(r"_\d+$", "", name)
        if kind == "InputLayer":
            names[name] = IMAGE
        elif _left_out(layer, lite=lite):
            names[name] = names[sources(layer)[0]]
        elif stem.replace("_", "") == kind.lower():
            names[name] = f"{stem}_{counted.setdefault(stem, 0)}"
            counted[stem] += 1
        else:
            names[name] = name
    return names


def _left_out(layer: dict[str, Any], *, lite: bool) -> bool:
    """Whether a layer prepares pixels, which is not its matter here, or squeezes and excites in vain."""
    return layer["class_name"] in _OF_ITS_OWN or (lite and "_se_" in layer["name"])


def _in_form(layer: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """Leave out what depends on the process, on the size of the image or on the precision."""
    name = names[layer["name"]]
    return {
        **{key: layer[key] for key in ("module", "class_name", "registered_name")},
        "name": name,
        "config": _settings(layer, name),
        "inbound_nodes": _renamed(layer["inbound_nodes"], names),
    }


def _settings(layer: dict[str, Any], name: str) -> dict[str, Any]:
    settings = {key: value for key, value in layer["config"].items() if key != "dtype"} | {"name": name}
    if "momentum" in settings:
        settings["momentum"] = _MOMENTUM
    for part in settings.get("layers", ()):  # of a sequential network inside
        inner = part["config"].get("name")
        part["config"] = _settings(part, f"{name}_{IMAGE}" if part["class_name"] == "InputLayer" else inner)
        part.pop("build_config", None)
    settings.pop("build_input_shape", None)
    return settings


def _renamed(value: Any, names: dict[str, str]) -> Any:  # noqa: ANN401
    if isinstance(value, dict):
        return {
            key: [names[part[0]], *part[1:]] if key == "keras_history" else _renamed(part, names)
            for key, part in value.items()
        }
    return [_renamed(part, names) for part in value] if isinstance(value, list | tuple) else value


def sources(layer: dict[str, Any]) -> list[str]:
    """Name the layers whose outputs a layer takes."""
    found: list[str] = []

    def look(value: Any) -> None:  # noqa: ANN401
        if isinstance(value, dict):
            if "keras_history" in value:
                found.append(value["keras_history"][0])
            for part in value.values():
                look(part)
        elif isinstance(value, list | tuple):
            for part in value:
                look(part)

    look(layer["inbound_nodes"])
    return found


def behind(layers: Recipe, outputs: list[str]) -> set[str]:
    """Name the layers that some outputs are computed from."""
    found = set(outputs)
    for name in reversed(layers):
        if name in found and name != IMAGE:
            found.update(sources(layers[name]))
    return found


def _pad(layer: dict[str, Any], layers: Recipe) -> None:
    settings = layer["config"]
    window = _window(settings)
    if settings.get("padding") != "valid" or window <= _stride(settings):
        return
    if layers[sources(layer)[0]]["class_name"] != "ZeroPadding2D":
        settings["padding"] = "same"


def _window(settings: dict[str, Any]) -> int:
    return int(max(settings.get("kernel_size", settings.get("pool_size", (1, 1)))))


def _stride(settings: dict[str, Any]) -> int:
    return int(max(settings.get("strides", (1, 1))))


def dilated(layers: Recipe, most: int) -> Recipe:
    """Exchange the strides beyond a total stride for dilation (the à trous algorithm).

    What the network then gives at every second, fourth ... px is what it gave before: a window
    after a stride that is gone skips as many px as the stride did.
    """
    strides, rates = {IMAGE: 1}, {IMAGE: 1}
    takers = {sources(layer)[0]: layer for layer in layers.values() if layer["name"] != IMAGE}
    for name, layer in layers.items():
        if name == IMAGE:
            continue
        taken, settings = sources(layer), layer["config"]
        rate, stride = (max(known[one] for one in taken) for known in (rates, strides))
        if layer["class_name"] == "ZeroPadding2D":
            window = takers[name]["config"]
            if rate > 1 or stride * _stride(window) > most:
                settings["padding"] = _spread(settings["padding"], _window(window), rate)
        elif _window(settings) > 1 and "dilation_rate" in settings:
            settings["dilation_rate"] = [rate, rate]
        gone = _stride(settings) if stride * _stride(settings) > most else 1
        strides[name], rates[name] = stride * _stride(settings) // gone, rate * gone
        if gone > 1:
            settings["strides"] = [1, 1]
    return layers


def _spread(padding: Any, window: int, rate: int) -> list[list[int]]:  # noqa: ANN401
    """Pad for a window without a step: as far before as it was, and for the same size after."""
    return [[before * rate, (window - 1 - before) * rate] for before, _ in padding]
