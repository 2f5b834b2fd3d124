"""A network as it is trained, where training has more losses than that of the map."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tiledseg._backend import keras
from tiledseg._validate import instance_of
from tiledseg.models.architectures import builder_for

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tiledseg.config import NetworkConfig
    from tiledseg.models.architectures import Side

__all__ = ["training_network"]


def training_network(network: keras.Model, architecture: NetworkConfig) -> keras.Model:
    """Give what is compiled and fitted to train a network.

    Settings such as ``deep_supervision`` add losses at outputs inside the network. Those outputs
    have no place in prediction, so the network that is saved does not have them: they stand
    around it while it is trained, and share its weights.
    """
    instance_of(keras.Model, network, "network", "Build it with build_model.")
    sides = builder_for(architecture).sides(network)
    return _Supervised(network, sides) if sides else network


class _Supervised(keras.Model):
    """A network with further outputs, which has their losses added."""

    def __init__(self, network: keras.Model, sides: Sequence[Side]) -> None:
        super().__init__(name=f"{network.name}_in_training")
        self._outputs = keras.Model(network.input, [network.output, *(side.output for side in sides)])
        self._targets = [(side.target, side.weight) for side in sides]

    def call(self, images: Any, training: bool | None = None) -> list[Any]:  # noqa: ANN401, FBT001
        """Map images (N, H, W, C) to the map and the further outputs."""
        outputs: list[Any] = self._outputs(images, training=training)
        return outputs

    def compute_loss(
        self,
        x: Any = None,  # noqa: ANN401
        y: Any = None,  # noqa: ANN401
        y_pred: Any = None,  # noqa: ANN401
        sample_weight: Any = None,  # noqa: ANN401
        training: bool = True,  # noqa: FBT001, FBT002
    ) -> Any:  # noqa: ANN401
        """Add the losses of the further outputs to that of the map."""
        loss = super().compute_loss(x, y, y_pred[0], sample_weight, training)
        for (target, weight), output in zip(self._targets if training else (), y_pred[1:], strict=training):
            loss += weight * (_presence_loss(y, output) if target == "presence" else self.loss(y, output))
        return loss

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> dict[str, Any]:  # noqa: ANN401
        """Measure the map alone."""
        metrics: dict[str, Any] = super().compute_metrics(x, y, y_pred[0], sample_weight)
        return metrics


def _presence_loss(y_true: Any, y_pred: Any) -> Any:  # noqa: ANN401
    """Hold (N, K) against whether each class is anywhere in the mask (N, h, w, K)."""
    there = keras.ops.cast(keras.ops.max(y_true, axis=(1, 2)) > 0.5, y_pred.dtype)
    return keras.ops.mean(keras.ops.binary_crossentropy(there, y_pred))
