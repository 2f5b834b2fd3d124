"""Blocks that several architectures share: two convolutions with normalisation, and the head."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd
from typing import Any

from tiledseg._backend import keras

__all__ = ["INITIALIZER", "ConvBlock", "head", "normalised"]

INITIALIZER = "he_normal"

_MOMENTUM = 0.9  # Keras' 0.99 lags for hundreds of steps: after short runs inference knew nothing yet

# The limits that the paper of batch renormalisation trains with (arXiv 1702.03275, section 4).
_RENORM_LIMITS = {"rmax": 3.0, "rmin": 1 / 3, "dmax": 5.0}
_MOST_GROUPS = 8


@dataclass(frozen=True, slots=True)
class ConvBlock:
    """Two convolutions, each activated, then normalised, with dropout between them.

    Attributes
    ----------
    name : str
        Prefix of the layers' names.
    filters : int
        Output channels of both convolutions.
    kernel : int
        Kernel size in px.
    dilation : int
        Dilation in px.
    dropout : float
        Fraction of the features that is dropped in training, in [0, 1).
    norm : str
        ``batch``, ``batch_renorm``, ``group`` or ``none``.
    activation : str
        Keras name of the activation.
    """

    name: str
    filters: int
    kernel: int
    dilation: int
    dropout: float
    norm: str
    activation: str

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


def normalised(x: Any, norm: str, name: str) -> Any:  # noqa: ANN401
    """Normalise features.

    Parameters
    ----------
    x : tensor
        Features (N, h, w, F).
    norm : str
        ``batch``, ``batch_renorm``, ``group`` (the largest of 8, 4, 2 and 1 groups that divides
        F) or ``none``.
    name : str
        Name of the layer.

    Returns
    -------
    tensor
        Features (N, h, w, F).
    """
    if norm == "batch":
        return keras.layers.BatchNormalization(momentum=_MOMENTUM, name=name)(x)
    if norm == "batch_renorm":
        return keras.layers.BatchNormalization(
            momentum=_MOMENTUM, renorm=True, renorm_clipping=_RENORM_LIMITS, name=name
        )(x)
    if norm == "group":
        return keras.layers.GroupNormalization(gcd(x.shape[-1], _MOST_GROUPS), name=name)(x)
    return x


def head(x: Any, classes: int, activation: str | None) -> Any:  # noqa: ANN401
    """Map features to the output, in float32 whatever the precision of the rest.

    Parameters
    ----------
    x : tensor
        Features (N, h, w, C).
    classes : int
        Output channels K.
    activation : str or None
        Keras name; None for ``sigmoid`` with one class and ``softmax`` with several.

    Returns
    -------
    tensor
        Output (N, h, w, K) float32.
    """
    activation = activation or ("sigmoid" if classes == 1 else "softmax")
    return keras.layers.Conv2D(classes, 1, activation=activation, dtype="float32", name="output")(x)
