"""An encoder of ``keras.applications``: a network within the network, with a tap at each size."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from tiledseg._backend import keras
from tiledseg._validate import invalid
from tiledseg.errors import FileError
from tiledseg.models.backbones import (
    BACKBONES,
    IMAGE,
    Backbone,
    from_keras,
    layers_behind,
    layers_of,
    new_names,
    sources,
    with_dilation,
)

if TYPE_CHECKING:
    from tiledseg._types import AnyArray

_DEEPEST = 32  # total stride of every backbone
_RGB = 3
# What the published files of EfficientNet hold: Keras' builder takes the root of the variance again.
_NORMALISED = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True, slots=True)
class Encoder:
    """A network of ``keras.applications`` that gives the maps of each size."""

    # It is a layer of the network, named ``encoder``: to freeze its weights in a first phase of
    # training, set ``network.get_layer("encoder").trainable = False``.

    name: str  # one of the backbones, such as ``efficientnet-b0``
    weights: str | None = None  # ``imagenet``, the path of a file of weights, or None
    # total stride of the deepest map; where that is less than the backbone's 32, dilation replaces
    # the missing strides
    stride: int = _DEEPEST
    halvings: int = 5  # how often the map halves before the backbone is cut off, at most 5

    @property
    def backbone(self) -> Backbone:
        """The backbone."""
        return BACKBONES[self.name]

    def __call__(self, image: Any) -> list[Any]:  # noqa: ANN401
        """Map images (N, H, W, C) to features, the finest first, of the strides in `strides`."""
        height, width, channels = image.shape[1:]
        network = self._network(height, width, channels)
        if self.weights and self.backbone.bgr:
            image = ReversedChannels(name="bgr")(image)
        return list(network(image))

    @property
    def strides(self) -> list[int]:
        """Strides of the features, the finest first; with dilation the deepest stand more than once."""
        every = [self.backbone.first * 2**n for n in range(len(self.backbone.taps) + 1)]
        return [min(stride, self.stride) for stride in every if stride <= 2**self.halvings]

    def fill(self, network: keras.Model) -> None:
        """Copy pretrained weights into a network, if there are any."""
        if self.weights:
            _fill(network.get_layer("encoder"), self.backbone, self.weights)

    def _network(self, height: int | None, width: int | None, channels: int) -> keras.Model:
        layers = layers_of(self.backbone, channels)
        if self.stride < _DEEPEST:
            with_dilation(layers, self.stride)
        layers[IMAGE]["config"]["batch_shape"] = [None, height, width, channels]
        taps = [sources(layers[name])[0] for name in self.backbone.taps]
        outputs = [*taps, next(reversed(layers))][: len(self.strides)]
        needed = layers_behind(layers, outputs)
        return keras.Model.from_config(
            {
                "name": "encoder",
                "layers": [layer for name, layer in layers.items() if name in needed],
                "input_layers": [IMAGE, 0, 0],
                "output_layers": [[name, 0, 0] for name in outputs],
            }
        )


@keras.saving.register_keras_serializable("tiledseg")
class ReversedChannels(keras.layers.Layer):
    """Reverses the channels: RGB becomes BGR."""

    looks_at = "px"

    def call(self, x: Any) -> Any:  # noqa: ANN401
        """Map x (N, h, w, C) to the same in the other order."""
        return keras.ops.flip(x, axis=-1)


def _fill(encoder: keras.Model, backbone: Backbone, weights: str) -> None:
    """Copy pretrained weights into an encoder."""
    found = (
        _from_safetensors(weights)
        if weights.lower().endswith(".safetensors")
        else _from_keras(backbone, weights)
    )
    wanted = {variable.path: variable for variable in encoder.weights}
    beyond = layers_of(backbone, _RGB).keys() - {layer.name for layer in encoder.layers}
    for path in sorted(wanted.keys() | found.keys()):
        if path.partition("/")[0] in beyond:
            continue  # of the part that the encoder is cut off before
        shapes = tuple(one[path].shape if path in one else "nothing" for one in (wanted, found))
        if shapes[0] != shapes[1]:
            raise _unfit(weights, must=f"hold {shapes[0]} for {path}", got=shapes[1])
        if not np.isfinite(found[path]).all():
            raise _unfit(weights, must=f"hold finite values for {path}", got="NaN or infinity")
    for path, variable in wanted.items():
        variable.assign(found[path])


def _from_safetensors(weights: str) -> dict[str, AnyArray]:
    try:
        return load_file(_file(weights))
    except (OSError, SafetensorError) as error:
        raise _unfit(weights, must="be a whole safetensors file", got=str(error)) from error


def _from_keras(backbone: Backbone, weights: str) -> dict[str, AnyArray]:
    """Let Keras read them into a network of its own, and name them as the encoder does."""
    known = weights == "imagenet"
    path = None if known else _file(weights)
    if backbone.lite:
        raise _unfit(weights, must="be a .safetensors file: Keras has no lite networks", got=weights)
    try:
        network = from_keras(backbone, _RGB, weights="imagenet" if known else None)
        if path:
            network.load_weights(path)
    except Exception as error:  # no connection, a damaged file: Keras can raise anything
        must = "be available from Keras" if known else f"hold weights of {backbone.source} without its top"
        raise _unfit(weights, must=must, got=f"{type(error).__name__}: {error}") from error
    return _named(network, weights)


def _named(network: keras.Model, weights: str) -> dict[str, AnyArray]:
    names = new_names(network.get_config()["layers"])
    found = {}
    for layer in network.layers:
        if isinstance(layer, keras.layers.Normalization):
            _check_normalisation(layer, weights)
            continue
        for variable in layer.weights:
            path = variable.path.replace(layer.name, names[layer.name], 1)
            found[path] = variable.numpy()
    return found


def _check_normalisation(layer: Any, weights: str) -> None:  # noqa: ANN401
    """Refuse a file that was trained with other pixels than `preprocessing` states."""
    values = [np.ravel(layer.get_weights()[n]) for n in (0, 1)]
    if not all(np.allclose(*pair, atol=1e-3) for pair in zip(values, _NORMALISED, strict=True)):
        raise _unfit(weights, must="normalise pixels as the published weights do", got=values)


def _file(weights: str) -> Path:
    path = Path(weights).expanduser()
    if not path.is_file():
        raise _unfit(weights, must="be a file", got="something else" if path.exists() else "nothing")
    return path


def _unfit(weights: str, *, must: str, got: object) -> FileError:
    fix = "Give the path of another file, or None to train from scratch."
    return invalid(FileError, f"encoder_weights: {weights}", must=must, got=got, fix=fix)
