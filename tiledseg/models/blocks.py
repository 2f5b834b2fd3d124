"""Blocks that several architectures share: convolutions with normalisation, levels, heads."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd
from typing import TYPE_CHECKING, Any

from tiledseg._backend import keras

if TYPE_CHECKING:
    from collections.abc import Callable

INITIALIZER = "he_normal"

MOMENTUM = 0.9  # of batch normalisation; with Keras' 0.99 the statistics are still wrong after short runs

# The limits that the paper of batch renormalisation trains with (arXiv 1702.03275, section 4).
_RENORM_LIMITS = {"rmax": 3.0, "rmin": 1 / 3, "dmax": 5.0}
_MAX_GROUPS = 8


@dataclass(frozen=True, slots=True)
class ConvBlock:
    """Two convolutions, each activated, then normalised, with dropout between them."""

    name: str  # prefix of the layers' names
    filters: int  # output channels of both convolutions
    norm: str  # ``batch``, ``batch_renorm``, ``group`` or ``none``
    activation: str  # Keras name of the activation
    kernel: int = 3  # px
    dilation: int = 1  # px
    dropout: float = 0.0  # fraction of the features to drop in training, in [0, 1)

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

    norm: str  # ``batch``, ``batch_renorm``, ``group``, ``instance`` or ``none``
    activation: str | None = "relu"  # Keras name of the activation; None for none
    kernel: int = 3  # px
    dilation: int = 1  # px
    bias: bool = True  # whether the convolution has a bias
    scale: bool = True  # whether the normalisation has a trained factor

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
        return keras.layers.BatchNormalization(momentum=MOMENTUM, scale=scale, name=name)(x)
    if norm == "batch_renorm":
        return keras.layers.BatchNormalization(
            momentum=MOMENTUM, scale=scale, renorm=True, renorm_clipping=_RENORM_LIMITS, name=name
        )(x)
    if norm == "group":
        return keras.layers.GroupNormalization(gcd(x.shape[-1], _MAX_GROUPS), scale=scale, name=name)(x)
    if norm == "instance":
        return keras.layers.GroupNormalization(-1, epsilon=1e-5, scale=scale, name=name)(x)
    return x


def encoded(image: Any, levels: int, block: Callable[[Any, str, int], Any]) -> list[Any]:  # noqa: ANN401
    """Return the features of each level, the finest first: `block(x, name, level)`, then pooling."""
    x, features = image, []
    for level in range(levels - 1):
        features.append(block(x, f"encoder_{level}", level))
        x = keras.layers.MaxPooling2D(name=f"encoder_{level}_pool")(features[-1])
    return [*features, block(x, "bridge", levels - 1)]


def joined(x: Any, skip: Any, filters: int, name: str) -> Any:  # noqa: ANN401
    """Enlarge coarser features by a transposed convolution, and concatenate the skip if there is one."""
    x = keras.layers.Conv2DTranspose(filters, 2, strides=2, name=f"{name}_up")(x)
    return x if skip is None else keras.layers.Concatenate(name=f"{name}_concat")([x, skip])


def final_activation(classes: int, activation: str | None) -> str:
    """Return the name of the output's activation."""
    return activation or ("sigmoid" if classes == 1 else "softmax")


def head(x: Any, classes: int, activation: str | None, kernel: int = 1) -> Any:  # noqa: ANN401
    """Map features to the output, in float32 at any precision of the network."""
    activation = final_activation(classes, activation)
    return keras.layers.Conv2D(
        classes, kernel, padding="same", activation=activation, dtype="float32", name="output"
    )(x)


def side_head(x: Any, classes: int, activation: str | None, level: int, kernel: int = 1) -> Any:  # noqa: ANN401
    """Map features of a coarser level to an output of the image's size."""
    name = f"side_{level}"
    x = keras.layers.Conv2D(classes, kernel, padding="same", dtype="float32", name=f"{name}_conv")(x)
    x = keras.layers.UpSampling2D(
        2**level, interpolation="bilinear", dtype="float32", name=f"{name}_enlarged"
    )(x)
    return keras.layers.Activation(final_activation(classes, activation), dtype="float32", name=name)(x)
