"""A backbone as an encoder: a network of its own within the network, with a tap at each size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tiledseg._backend import keras
from tiledseg.models.architectures._backbones import BACKBONES, Backbone
from tiledseg.models.architectures._layers import ReversedChannels
from tiledseg.models.architectures._pretrained import fill
from tiledseg.models.architectures._recipes import IMAGE, behind, dilated, recipe, sources

__all__ = ["Encoder"]

_DEEPEST = 32


@dataclass(frozen=True, slots=True)
class Encoder:
    """A network of ``keras.applications`` that gives the maps of each size.

    It stands in the network as a network of its own, named ``encoder``: to keep its weights in a
    first phase of training, set ``network.get_layer("encoder").trainable = False``.
    """

    name: str  # one of the backbones, such as ``efficientnet-b0``
    weights: str | None = None  # ``imagenet``, the path of a file of weights, or None
    # total stride of the deepest map; where that is less than the backbone's 32, dilation stands in
    # for the strides that are missing
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
        """Take weights that were learnt elsewhere over, if there are any."""
        if self.weights:
            fill(network.get_layer("encoder"), self.backbone, self.weights)

    def _network(self, height: int | None, width: int | None, channels: int) -> keras.Model:
        layers = recipe(self.backbone, channels)
        if self.stride < _DEEPEST:
            dilated(layers, self.stride)
        layers[IMAGE]["config"]["batch_shape"] = [None, height, width, channels]
        taps = [sources(layers[name])[0] for name in self.backbone.taps]
        outputs = [*taps, next(reversed(layers))][: len(self.strides)]
        kept = behind(layers, outputs)
        return keras.Model.from_config(
            {
                "name": "encoder",
                "layers": [layer for name, layer in layers.items() if name in kept],
                "input_layers": [IMAGE, 0, 0],
                "output_layers": [[name, 0, 0] for name in outputs],
            }
        )
