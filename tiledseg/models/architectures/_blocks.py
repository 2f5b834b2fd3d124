"""Blocks that several architectures share: convolutions with normalisation, and the head."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd
from typing import Any

from tiledseg._backend import keras

__all__ = ["INITIALIZER", "ConvBlock", "ConvNorm", "final", "head", "normalised"]

INITIALIZER = "he_normal"

_MOMENTUM = 0.9  # Keras' 0.99 lags for hundreds of steps: after short runs inference knew nothing yet

# The limits that the paper of batch renormalisation trains with (arXiv 1702.03275, section 4).
_RENORM_LIMITS = {"rmax": 3.0, "rmin": 1 / 3, "dmax": 5.0}
_MOST_GROUPS = 8


@dataclass(frozen=True, slots=True)
class ConvBlock:
    """Two convolutions, each activated, then normalised, with dropout between them."""

    name: str  # prefix of the layers' names
    filters: int  # output channels of both convolutions
    kernel: int  # kernel size in px
    dilation: int  # dilation in px
    dropout: float  # fraction of the features that is dropped in training, in [0, 1)
    norm: str  # ``batch``, ``batch_renorm``, ``group`` or ``none``
    activation: str  # keras name of the activation

    def __call__(self, x: Any) -> Any:  # noqa: ANN401  a symbolic tensor, which Keras does not type
        """Map x (N, h, w, C) to features (N, h, w, filters)."""
        x = normalised(self._convolved(x, "a"), self.norm, f"{self.name}_norm_a")
        if self.dropout:
            x = keras.layers.Dropout(self.dropout, name=f"{self.name}_dropout")(x)
        return normalised(self._convolved(x, "b"), self.norm, f"{self.name}_norm_b")

    def _convolved(self, x: Any, part: str) -> Any:  # noqa: ANN401
        return keras.layers.Conv2D(
            self.filters,
            self.kernel,
            padding="same",
            dilation_rate=self.dilation,
            activation=self.activation,
            kernel_initializer=INITIALIZER,
            name=f"{self.name}_conv_{part}",
        )(x)


@dataclass(frozen=True, slots=True)
class ConvNorm:
    """A convolution, then a normalisation, then an activation."""

    norm: str  # as for `normalised`
    activation: str | None = "relu"  # keras name of the activation; None for none
    kernel: int = 3  # kernel size in px
    dilation: int = 1  # dilation in px
    bias: bool = True  # whether the convolution has a bias
    scale: bool = True  # whether the normalisation has a factor that is learnt

    def __call__(self, x: Any, filters: int, name: str) -> Any:  # noqa: ANN401
        """Map x (N, h, w, C) to features (N, h, w, filters); layers are named ``<name>_conv`` and so on."""
        x = keras.layers.Conv2D(
            filters,
            self.kernel,
            padding="same",
            dilation_rate=self.dilation,
            use_bias=self.bias,
            kernel_initializer=INITIALIZER,
            name=f"{name}_conv",
        )(x)
        x = normalised(x, self.norm, f"{name}_norm", scale=self.scale)
        return keras.layers.Activation(self.activation, name=f"{name}_act")(x) if self.activation else x


def normalised(x: Any, norm: str, name: str, *, scale: bool = True) -> Any:  # noqa: ANN401
    """Normalise features."""
    if norm == "batch":
        return keras.layers.BatchNormalization(momentum=_MOMENTUM, scale=scale, name=name)(x)
    if norm == "batch_renorm":
        return keras.layers.BatchNormalization(
            momentum=_MOMENTUM, scale=scale, renorm=True, renorm_clipping=_RENORM_LIMITS, name=name
        )(x)
    if norm == "group":
        return keras.layers.GroupNormalization(gcd(x.shape[-1], _MOST_GROUPS), scale=scale, name=name)(x)
    if norm == "instance":
        return keras.layers.GroupNormalization(-1, epsilon=1e-5, scale=scale, name=name)(x)
    return x


def final(classes: int, activation: str | None) -> str:
    """Name the activation of the output."""
    return activation or ("sigmoid" if classes == 1 else "softmax")


def head(x: Any, classes: int, activation: str | None, kernel: int = 1) -> Any:  # noqa: ANN401
    """Map features to the output, in float32 whatever the precision of the rest."""
    return keras.layers.Conv2D(
        classes, kernel, padding="same", activation=final(classes, activation), dtype="float32", name="output"
    )(x)
