"""Settings of how a network is run: by what, in which numbers, where, and in how much memory."""

from __future__ import annotations

from typing import Annotated, Literal, Self, TypeAlias

from pydantic import Field, model_validator

from tiledseg.config.base import Config
from tiledseg.config.fields import Count, as_tuple

Engine: TypeAlias = Literal["auto", "keras", "openvino", "onnxruntime"]
"""What runs a Keras network; ``auto`` takes OpenVINO where it can."""

Precision: TypeAlias = Literal["f32", "bf16"]
"""Numbers that a network multiplies; only OpenVINO has ``bf16``."""

Activation: TypeAlias = Literal["sigmoid", "softmax"]
"""What turns logits into probabilities: a sigmoid for each channel, or a softmax over the channels."""

TTA: TypeAlias = Literal["flips", "d4"]
"""Test-time augmentation: a tile and its mirror images along y, x and both; ``d4`` adds their transposes."""


class RuntimeConfig(Config):
    """How a network is run."""

    engine: Engine = "auto"
    """What runs a network. ``auto`` takes OpenVINO on a machine without a GPU, if it knows all layers of the
    network and agrees with Keras on a test tile within 1e-4 of the largest output; otherwise Keras."""
    precision: Precision = "f32"
    """Numbers that the network multiplies. ``bf16`` is faster and less accurate. It needs OpenVINO, and 99.9
    % of a test tile must agree with Keras within 0.05 of the largest output, or 0.05."""
    devices: Annotated[tuple[str, ...], as_tuple, Field(min_length=1)] | None = None
    """TensorFlow's names of the devices that run copies of a Keras network at the same time, for example
    ``("GPU:0", "GPU:1")``; None for all GPUs."""
    activation: Activation | None = None
    """Function that turns the network's outputs into probabilities, where they are logits; None where they
    are probabilities, or for the segmenter's own."""
    memory: Count | None = None
    """Bytes that the network may take for its activations; None for half of the free memory."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        by_keras = self.engine == "keras" or (self.engine == "auto" and self.devices is not None)
        if self.precision == "bf16" and by_keras:
            raise self._invalid(
                "precision",
                "be f32 with engine='keras' or named devices",
                "Use engine='openvino', or set the network's own dtype policy.",
            )
        return self
