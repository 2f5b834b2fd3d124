"""The encoder of a network: a network of ``keras.applications`` with a tap at each size."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from tiledseg._backend import keras
from tiledseg._storage import exists, is_file
from tiledseg._validate import invalid
from tiledseg.errors import FileError
from tiledseg.models.backbones import (
    BACKBONES,
    IMAGE,
    Backbone,
    ancestors,
    dilate,
    from_keras,
    layers_of,
    new_names,
    sources,
)

if TYPE_CHECKING:
    from tiledseg._types import AnyArray

_TOTAL_STRIDE = 32  # of every backbone
_RGB = 3
# Mean and variance in the published files of EfficientNet; the latter are standard deviations, which Keras
# compensates by a layer after the normalisation.
_NORMALISED = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True, slots=True)
class Encoder:
    """A network of ``keras.applications`` that returns the last map of each size."""

    # It is a layer of the network, named ``encoder``: to freeze its weights in a first phase of
    # training, set ``network.get_layer("encoder").trainable = False``.

    name: str  # one of the backbones, such as ``efficientnet-b0``
    weights: str | None = None  # ``imagenet``, the path of a file of weights, or None
    stride: int = _TOTAL_STRIDE  # of the deepest map; below 32, dilation replaces the other strides
    depth: int = 5  # number of down-samplings by 2 that are used, at most 5

    @property
    def backbone(self) -> Backbone:
        """The network in ``keras.applications``."""
        return BACKBONES[self.name]

    def __call__(self, image: Any) -> list[Any]:
        """Map images (N, H, W, C) to features, the finest first, of the strides in `strides`."""
        height, width, channels = image.shape[1:]
        network = self._network(height, width, channels)
        if self.weights and self.backbone.bgr:
            image = ReversedChannels(name="bgr")(image)
        return list(network(image))

    @property
    def strides(self) -> list[int]:
        """Strides of the features, the finest first; with dilation the last one is repeated."""
        every = [self.backbone.first * 2**n for n in range(len(self.backbone.taps) + 1)]
        return [min(stride, self.stride) for stride in every if stride <= 2**self.depth]

    def fill(self, network: keras.Model) -> None:
        """Copy pretrained weights into a network, if there are any."""
        if self.weights:
            _fill(network.get_layer("encoder"), self.backbone, self.weights)

    def _network(self, height: int | None, width: int | None, channels: int) -> keras.Model:
        layers = layers_of(self.backbone, channels)
        if self.stride < _TOTAL_STRIDE:
            dilate(layers, self.stride)
        layers[IMAGE]["config"]["batch_shape"] = [None, height, width, channels]
        taps = [sources(layers[name])[0] for name in self.backbone.taps]
        outputs = [*taps, next(reversed(layers))][: len(self.strides)]
        needed = ancestors(layers, outputs)
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
    """Reverses the order of the channels: RGB becomes BGR."""

    context = "px"

    def call(self, x: Any) -> Any:
        """Map x (N, h, w, C) to the same shape."""
        return keras.ops.flip(x, axis=-1)


def _fill(encoder: keras.Model, backbone: Backbone, weights: str) -> None:
    """Copy pretrained weights into an encoder."""
    found = (
        _from_safetensors(weights)
        if weights.lower().endswith(".safetensors")
        else _from_keras(backbone, weights)
    )
    wanted = {variable.path: variable for variable in encoder.weights}
    unused = layers_of(backbone, _RGB).keys() - {layer.name for layer in encoder.layers}
    for path in sorted(wanted.keys() | found.keys()):
        if path.partition("/")[0] in unused:
            continue  # a layer of the backbone that this encoder does not have
        shapes = tuple(one[path].shape if path in one else "nothing" for one in (wanted, found))
        if shapes[0] != shapes[1]:
            raise _unsuitable(weights, must=f"contain {shapes[0]} for {path}", got=shapes[1])
        if not np.isfinite(found[path]).all():
            raise _unsuitable(weights, must=f"contain finite values for {path}", got="NaN or infinity")
    for path, variable in wanted.items():
        variable.assign(found[path])


def _from_safetensors(weights: str) -> dict[str, AnyArray]:
    try:
        return load_file(_file(weights))
    except (OSError, SafetensorError) as error:
        raise _unsuitable(weights, must="be a whole safetensors file", got=error) from error


def _from_keras(backbone: Backbone, weights: str) -> dict[str, AnyArray]:
    """Let Keras load weights into its own network, and return them by their paths in the encoder."""
    published = weights == "imagenet"
    path = None if published else _file(weights)
    if backbone.lite:
        raise _unsuitable(weights, must="be a .safetensors file: Keras has no lite networks", got=weights)
    try:
        network = from_keras(backbone, _RGB, weights="imagenet" if published else None)
        if path:
            network.load_weights(path)
    except Exception as error:  # no connection, a damaged file: Keras can raise anything
        wanted = f"contain weights of {backbone.source} without its top"
        must = "be available from Keras" if published else wanted
        raise _unsuitable(weights, must=must, got=f"{type(error).__name__}: {error}") from error
    return _by_path(network, weights)


def _by_path(network: keras.Model, weights: str) -> dict[str, AnyArray]:
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


def _check_normalisation(layer: Any, weights: str) -> None:
    """Refuse weights that were trained with another normalisation than `preprocessing` states."""
    values = [np.ravel(layer.get_weights()[n]) for n in (0, 1)]
    if not all(np.allclose(*pair, atol=1e-3) for pair in zip(values, _NORMALISED, strict=True)):
        raise _unsuitable(weights, must="normalise pixels as the published weights do", got=values)


def _file(weights: str) -> Path:
    path = Path(weights).expanduser()
    if not is_file(path):
        raise _unsuitable(weights, must="be a file", got="something else" if exists(path) else "nothing")
    return path


def _unsuitable(weights: str, *, must: str, got: object) -> FileError:
    fix = "Give the path of another file, or None to train from scratch."
    return invalid(FileError, f"encoder_weights: {weights}", must=must, got=got, fix=fix)
