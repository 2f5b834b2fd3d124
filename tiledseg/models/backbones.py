"""Networks of ``keras.applications`` that serve as encoders: where to tap them, how to build them."""

from __future__ import annotations

import random
import re
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache
from inspect import signature
from typing import Any, TypeAlias

from tiledseg._backend import keras
from tiledseg.models.builder import MOMENTUM

Layers: TypeAlias = dict[str, dict[str, Any]]
"""Configurations of layers by name, in the order of computation."""

IMAGE = "image"
_PUBLISHED_SHAPE = (224, 224, 3)  # at another size Keras warns
_PREPROCESSING = frozenset({"Rescaling", "Normalization"})


@dataclass(frozen=True, slots=True)
class Backbone:
    """A network of ``keras.applications`` as an encoder."""

    # A tap is the last map of its size: the input of the layer or block that reduces the size. It is
    # never inside a block, where the number of channels differs.

    source: str  # its name in ``keras.applications``
    # layers whose input is a tap, the finest first; the last tap is the backbone's output
    taps: tuple[str, ...]
    first: int = 2  # stride of the first tap; it doubles from tap to tap
    bgr: bool = False  # whether its published weights expect the channels in the order blue, green, red
    lite: bool = False  # whether to build its lite form: without squeeze-and-excite, with ReLU6


def _efficientnets() -> dict[str, Backbone]:
    taps = tuple(f"block{block}a_expand_conv" for block in (2, 3, 4, 6))
    first = {f"efficientnet-b{n}": Backbone(f"EfficientNetB{n}", taps) for n in range(8)}
    small = {f"efficientnetv2-b{n}": Backbone(f"EfficientNetV2B{n}", taps) for n in range(4)}
    large = {f"efficientnetv2-{n.lower()}": Backbone(f"EfficientNetV2{n}", taps) for n in "SML"}
    lite = {"efficientnet-lite0": Backbone("EfficientNetB0", taps, lite=True)}
    return first | lite | small | large


def _resnets() -> dict[str, Backbone]:
    starts = ("pool1_pad", *(f"conv{stage}_block1_1_conv" for stage in (3, 4, 5)))
    backbones = {f"resnet{depth}": Backbone(f"ResNet{depth}", starts, bgr=True) for depth in (50, 101, 152)}
    # The second version shrinks in the last block of a stage.
    for depth, blocks in ((50, (3, 4, 6)), (101, (3, 4, 23)), (152, (3, 8, 36))):
        ends = (f"conv{stage}_block{block}_1_conv" for stage, block in zip((2, 3, 4), blocks, strict=True))
        backbones[f"resnet{depth}v2"] = Backbone(f"ResNet{depth}V2", ("pool1_pad", *ends))
    return backbones


def _mobilenets() -> dict[str, Backbone]:
    first = tuple(f"conv_pad_{block}" for block in (2, 4, 6, 12))
    second = tuple(f"block_{block}_expand" for block in (1, 3, 6, 13))
    large = tuple(f"expanded_conv_{block}_expand" for block in (1, 3, 6, 12))
    small = ("expanded_conv_depthwise_pad", *(f"expanded_conv_{block}_expand" for block in (1, 3, 8)))
    return {
        "mobilenet": Backbone("MobileNet", first),
        "mobilenetv2": Backbone("MobileNetV2", second),
        "mobilenetv3-small": Backbone("MobileNetV3Small", small),
        "mobilenetv3-large": Backbone("MobileNetV3Large", large),
    }


def _others() -> dict[str, Backbone]:
    pools = tuple(f"block{block}_pool" for block in range(1, 6))
    vggs = {f"vgg{depth}": Backbone(f"VGG{depth}", pools, first=1, bgr=True) for depth in (16, 19)}
    densenets = {
        f"densenet{depth}": Backbone(
            f"DenseNet{depth}", ("zero_padding2d_1", "pool2_conv", "pool3_conv", "pool4_conv")
        )
        for depth in (121, 169, 201)
    }
    convnexts = {
        f"convnext-{size}": Backbone(
            f"ConvNeXt{size.title() if size != 'xlarge' else 'XLarge'}",
            tuple(f"convnext_{size}_downsampling_block_{n}" for n in range(3)),
            first=4,
        )
        for size in ("tiny", "small", "base", "large", "xlarge")
    }
    xception = ("block2_sepconv1", "block3_sepconv1_act", "block4_sepconv1_act", "block13_sepconv1_act")
    inception = tuple(f"max_pooling2d_{n}" for n in range(4))
    return {
        **vggs,
        **densenets,
        **convnexts,
        "xception": Backbone("Xception", xception),
        "inceptionv3": Backbone("InceptionV3", inception),
        "inceptionresnetv2": Backbone("InceptionResNetV2", inception),
    }


BACKBONES: dict[str, Backbone] = {**_efficientnets(), **_resnets(), **_mobilenets(), **_others()}
"""The backbones by their names in the settings."""


def from_keras(backbone: Backbone, channels: int, weights: str | None = None) -> keras.Model:
    """Build a backbone as ``keras.applications`` does, without its top."""
    build = getattr(keras.applications, backbone.source)
    name = "include_preprocessing"
    options = {name: False} if name in signature(build).parameters else {}
    if weights:
        return build(include_top=False, weights=weights, input_shape=_PUBLISHED_SHAPE, **options)
    image = keras.layers.Input((None, None, channels))
    return build(include_top=False, weights=None, input_tensor=image, **options)


def layers_of(backbone: Backbone, channels: int) -> Layers:
    """Return the layers of a backbone, the same in every process and for any image size."""
    # Layers that Keras numbers are numbered from 0 within the network. Keras' own preprocessing is
    # dropped. Overlapping windows are padded, so that each stride of 2 gives exactly half the size.
    return deepcopy(_cached_layers(backbone, channels))


@lru_cache(maxsize=16)
def _cached_layers(backbone: Backbone, channels: int) -> Layers:
    # A thread of its own: Keras keeps a list, per thread, of variables that still need values.
    with ThreadPoolExecutor(1) as thread:
        layers = thread.submit(_configs, backbone, channels).result()
    names, made = new_names(layers, lite=backbone.lite), {}
    for layer in layers:
        if not _is_dropped(layer, lite=backbone.lite):
            made[names[layer["name"]]] = _normal_form(layer, names)
            if backbone.lite and layer["class_name"] == "Activation":
                made[names[layer["name"]]]["config"]["activation"] = "relu6"
    for layer in made.values():
        _pad(layer, made)
    return made


def _configs(backbone: Backbone, channels: int) -> list[dict[str, Any]]:
    """Return the configurations of a backbone's layers, without creating its weights."""
    state = random.getstate()  # Keras draws seeds from Python's generator, which is the caller's
    try:
        with keras.StatelessScope(initialize_variables=False):
            layers: list[dict[str, Any]] = from_keras(backbone, channels).get_config()["layers"]
    finally:
        random.setstate(state)
    return layers


def new_names(layers: list[dict[str, Any]], *, lite: bool = False) -> dict[str, str]:
    """Map the names of layers to new ones, in which numbers that Keras gave start at 0."""
    names: dict[str, str] = {}
    counts: dict[str, int] = {}
    for layer in layers:
        kind, name = layer["class_name"], layer["name"]
        stem = re.sub(r"_\d+$", "", name)
        if kind == "InputLayer":
            names[name] = IMAGE
        elif _is_dropped(layer, lite=lite):
            names[name] = names[sources(layer)[0]]
        elif stem.replace("_", "") == kind.lower():
            names[name] = f"{stem}_{counts.setdefault(stem, 0)}"
            counts[stem] += 1
        else:
            names[name] = name
    return names


def _is_dropped(layer: dict[str, Any], *, lite: bool) -> bool:
    """Say whether a layer is dropped: preprocessing, or the squeeze-and-excite of a lite network."""
    return layer["class_name"] in _PREPROCESSING or (lite and "_se_" in layer["name"])


def _normal_form(layer: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """Return a layer's configuration without all that depends on process, image size or precision."""
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
        settings["momentum"] = MOMENTUM
    for part in settings.get("layers", ()):  # those of an inner sequential network
        inner = part["config"].get("name")
        part["config"] = _settings(part, f"{name}_{IMAGE}" if part["class_name"] == "InputLayer" else inner)
        part.pop("build_config", None)
    settings.pop("build_input_shape", None)
    return settings


def _renamed(value: Any, names: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {
            key: [names[part[0]], *part[1:]] if key == "keras_history" else _renamed(part, names)
            for key, part in value.items()
        }
    return [_renamed(part, names) for part in value] if isinstance(value, list | tuple) else value


def sources(layer: dict[str, Any]) -> list[str]:
    """Return the names of the layers whose outputs a layer takes."""
    found: list[str] = []

    def collect(value: Any) -> None:
        if isinstance(value, dict):
            if "keras_history" in value:
                found.append(value["keras_history"][0])
            for part in value.values():
                collect(part)
        elif isinstance(value, list | tuple):
            for part in value:
                collect(part)

    collect(layer["inbound_nodes"])
    return found


def ancestors(layers: Layers, outputs: list[str]) -> set[str]:
    """Return the names of the layers from which outputs are computed."""
    found = set(outputs)
    for name in reversed(layers):
        if name in found and name != IMAGE:
            found.update(sources(layers[name]))
    return found


def _pad(layer: dict[str, Any], layers: Layers) -> None:
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


def dilate(layers: Layers, max_stride: int) -> None:
    """Replace all strides beyond a total stride by dilation (the à trous algorithm)."""
    # The outputs at every second, fourth ... px stay the same: a window after a removed stride skips
    # as many px as the stride did.
    strides, rates = {IMAGE: 1}, {IMAGE: 1}
    consumers = {sources(layer)[0]: layer for layer in layers.values() if layer["name"] != IMAGE}
    for name, layer in layers.items():
        if name == IMAGE:
            continue
        inputs, settings = sources(layer), layer["config"]
        rate, stride = (max(known[one] for one in inputs) for known in (rates, strides))
        if layer["class_name"] == "ZeroPadding2D":
            window = consumers[name]["config"]
            if rate > 1 or stride * _stride(window) > max_stride:
                settings["padding"] = _dilated_padding(settings["padding"], _window(window), rate)
        elif _window(settings) > 1 and "dilation_rate" in settings:
            settings["dilation_rate"] = [rate, rate]
        removed = _stride(settings) if stride * _stride(settings) > max_stride else 1
        strides[name], rates[name] = stride * _stride(settings) // removed, rate * removed
        if removed > 1:
            settings["strides"] = [1, 1]


def _dilated_padding(padding: Any, window: int, rate: int) -> list[list[int]]:
    """Return the padding for a dilated window without a stride, so that the map keeps its size."""
    return [[before * rate, (window - 1 - before) * rate] for before, _ in padding]
