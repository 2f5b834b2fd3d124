"""Blocks that several architectures share: two convolutions with normalisation, and the head."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd
from typing import Any

from tiledseg._backend import keras

__all__ = ["ConvBlock", "conv_count", "head"]

_MOMENTUM = 0.9  # Keras' 0.99 lags for hundreds of steps: after short runs inference knew nothing yet

# The limits that the paper of batch renormalisation trains with (arXiv 1702.03275, section 4).
_RENORM_LIMITS = {"rmax": 3.0, "rmin": 1 / 3, "dmax": 5.0}
_MOST_GROUPS = 8
_VARIABLES_PER_FILTER = {"batch": 4, "batch_renorm": 7, "group": 2, "none": 0}


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
    initializer : str
        Keras name of the kernels' first values.
    """

    name: str
    filters: int
    kernel: int
    dilation: int
    dropout: float
    norm: str
    activation: str
    initializer: str

    def __call__(self, x: Any) -> Any:  # noqa: ANN401  a symbolic tensor, which Keras does not type
        """Map x (N, h, w, C) to features (N, h, w, filters)."""
        x = self._normalised(self._convolved(x, "a"), "a")
        if self.dropout:
            x = keras.layers.Dropout(self.dropout, name=f"{self.name}_dropout")(x)
        return self._normalised(self._convolved(x, "b"), "b")

    def _convolved(self, x: Any, part: str) -> Any:  # noqa: ANN401
        return keras.layers.Conv2D(
            self.filters,
            self.kernel,
            padding="same",
            dilation_rate=self.dilation,
            activation=self.activation,
            kernel_initializer=self.initializer,
            name=f"{self.name}_conv_{part}",
        )(x)

    def _normalised(self, x: Any, part: str) -> Any:  # noqa: ANN401
        name = f"{self.name}_norm_{part}"
        if self.norm == "batch":
            return keras.layers.BatchNormalization(momentum=_MOMENTUM, name=name)(x)
        if self.norm == "batch_renorm":
            return keras.layers.BatchNormalization(
                momentum=_MOMENTUM, renorm=True, renorm_clipping=_RENORM_LIMITS, name=name
            )(x)
        if self.norm == "group":
            return keras.layers.GroupNormalization(gcd(self.filters, _MOST_GROUPS), name=name)(x)
        return x

    def count(self, channels: int) -> int:
        """Count the parameters.

        Parameters
        ----------
        channels : int
            Input channels.

        Returns
        -------
        int
            Parameters, those that are not trained counted in.
        """
        convs = conv_count(self.kernel, channels, self.filters) + conv_count(
            self.kernel, self.filters, self.filters
        )
        return convs + 2 * _VARIABLES_PER_FILTER[self.norm] * self.filters


def conv_count(kernel: int, channels: int, filters: int) -> int:
    """Count the parameters of a convolution with bias.

    Parameters
    ----------
    kernel : int
        Kernel size in px.
    channels : int
        Input channels.
    filters : int
        Output channels.

    Returns
    -------
    int
        Parameters.
    """
    return kernel * kernel * channels * filters + filters


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
