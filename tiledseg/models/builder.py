"""The base class of all builders, which joins encoder, decoder and head to a network; the blocks of these."""

from __future__ import annotations

from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import gcd
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from tiledseg._backend import check_process, keras
from tiledseg.config import ArchitectureConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

INITIALIZER = "he_normal"

MOMENTUM = 0.9  # of batch normalisation; with Keras' 0.99 the statistics are still wrong after short runs

# The limits that the paper of batch renormalisation trains with (arXiv 1702.03275, section 4).
_RENORM_LIMITS = {"rmax": 3.0, "rmin": 1 / 3, "dmax": 5.0}
_MAX_GROUPS = 8
_Settings_co = TypeVar("_Settings_co", bound=ArchitectureConfig, covariant=True)


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

    def __call__(self, x: Any) -> Any:  # a symbolic tensor, which Keras does not type
        """Map x (N, h, w, C) to features (N, h, w, filters)."""
        x = normalised(self._convolved(x, "a"), self.norm, f"{self.name}_norm_a")
        if self.dropout:
            x = keras.layers.Dropout(self.dropout, name=f"{self.name}_dropout")(x)
        return normalised(self._convolved(x, "b"), self.norm, f"{self.name}_norm_b")

    def _convolved(self, x: Any, part: str) -> Any:
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

    def __call__(self, x: Any, filters: int, name: str) -> Any:
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


def normalised(x: Any, norm: str, name: str, *, scale: bool = True) -> Any:
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


def encoded(image: Any, levels: int, block: Callable[[Any, str, int], Any]) -> list[Any]:
    """Return the features of each level, the finest first: `block(x, name, level)`, then pooling."""
    x, features = image, []
    for level in range(levels - 1):
        features.append(block(x, f"encoder_{level}", level))
        x = keras.layers.MaxPooling2D(name=f"encoder_{level}_pool")(features[-1])
    return [*features, block(x, "bridge", levels - 1)]


def joined(x: Any, skip: Any, filters: int, name: str) -> Any:
    """Enlarge coarser features by a transposed convolution, and concatenate the skip if there is one."""
    x = keras.layers.Conv2DTranspose(filters, 2, strides=2, name=f"{name}_up")(x)
    return x if skip is None else keras.layers.Concatenate(name=f"{name}_concat")([x, skip])


def final_activation(classes: int, activation: str | None) -> str:
    """Return the name of the output's activation."""
    return activation or ("sigmoid" if classes == 1 else "softmax")


def head(x: Any, classes: int, activation: str | None, kernel: int = 1) -> Any:
    """Map features to the output, in float32 at any precision of the network."""
    activation = final_activation(classes, activation)
    return keras.layers.Conv2D(
        classes, kernel, padding="same", activation=activation, dtype="float32", name="output"
    )(x)


def side_head(x: Any, classes: int, activation: str | None, level: int, kernel: int = 1) -> Any:
    """Map features of a coarser level to an output of the image's size."""
    name = f"side_{level}"
    x = keras.layers.Conv2D(classes, kernel, padding="same", dtype="float32", name=f"{name}_conv")(x)
    x = keras.layers.UpSampling2D(
        2**level, interpolation="bilinear", dtype="float32", name=f"{name}_enlarged"
    )(x)
    return keras.layers.Activation(final_activation(classes, activation), dtype="float32", name=name)(x)


@dataclass(frozen=True, slots=True)
class SideOutput:
    """An additional output with its own loss, which exists in training only."""

    output: Any  # probabilities (N, h, w, K) of the input's size; or (N, K) for ``presence``
    # the truth: the mask, with the loss of the map; or whether each class occurs in the mask, with
    # binary cross-entropy
    target: Literal["mask", "presence"] = "mask"
    weight: float = 1.0  # factor of its loss; the map's own loss has 1


@dataclass(frozen=True)
class NetworkBuilder(ABC, Generic[_Settings_co]):
    """Base class of the builders, which make networks from settings.

    A subclass defines `encode` and `decode`. It overrides `finish` if the output is more than a
    convolution of 1 px, and `side_outputs` if training has additional losses. Initial weights come
    from Keras' random generators: call ``keras.utils.set_random_seed`` before `build` to get the
    same weights each time.

    Attributes
    ----------
    config : ArchitectureConfig
        The settings.
    """

    config: _Settings_co

    @abstractmethod
    def encode(self, image: Any) -> list[Any]:  # a symbolic tensor, which Keras does not type
        """Extract features.

        Parameters
        ----------
        image : tensor
            Images (N, H, W, C).

        Returns
        -------
        list of tensor
            Features of each level, the finest first.
        """

    @abstractmethod
    def decode(self, features: list[Any]) -> Any:
        """Merge the features of all levels.

        Parameters
        ----------
        features : list of tensor
            The result of `encode`.

        Returns
        -------
        tensor
            The input of `finish`: usually features (N, H, W, F).
        """

    def finish(self, features: Any) -> Any:
        """Turn features into the output.

        Parameters
        ----------
        features : tensor
            The result of `decode`.

        Returns
        -------
        tensor
            Outputs (N, H, W, K) float32.
        """
        return head(features, self.config.classes, self.config.final_activation)

    def fill(self, network: keras.Model) -> None:
        """Copy pretrained weights into a network.

        Parameters
        ----------
        network : keras.Model
            A network with random weights. `build` with ``blank=True`` does not call this method.
        """

    def side_outputs(self, network: keras.Model) -> tuple[SideOutput, ...]:  # noqa: ARG002
        """Return the additional outputs of training.

        Parameters
        ----------
        network : keras.Model
            The result of `build`. Side outputs use the features of its layers, found by name.

        Returns
        -------
        tuple of SideOutput
            Empty by default.
        """
        return ()

    def build(self, *, blank: bool = False) -> keras.Model:
        """Build the network.

        Parameters
        ----------
        blank : bool
            Whether all weights are zero, for a caller that sets them afterwards. Random weights
            take seconds for a large network.

        Returns
        -------
        keras.Model
            Maps images (N, H, W, C) to outputs (N, H, W, K) float32; N and each free size is None.
        """
        check_process()
        if not blank:
            network = self._network()
            self.fill(network)
            return network
        with keras.StatelessScope():  # new variables get their values at its end
            network = self._network()
            for variable in network.weights:
                variable._initializer = keras.initializers.Zeros()
        return network

    def training_network(self, network: keras.Model) -> keras.Model:
        """Return the network to compile and fit: with side outputs, if there are any.

        Parameters
        ----------
        network : keras.Model
            The result of `build`.

        Returns
        -------
        keras.Model
            The network itself, or one around it that shares its weights.
        """
        sides = self.side_outputs(network)
        return _TrainingNetwork(network, sides) if sides else network

    def count(self) -> int:
        """Count the parameters without creating them.

        Returns
        -------
        int
            Number of parameters, including those that are not trained.
        """
        # A thread of its own: Keras keeps a list, per thread, of variables that still need values.
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(self._count).result()

    def _count(self) -> int:
        with keras.StatelessScope(initialize_variables=False):
            return int(self._network().count_params())

    def _network(self) -> keras.Model:
        image = keras.layers.Input(self.config.input_shape, name="image")
        return keras.Model(image, self.finish(self.decode(self.encode(image))), name=self.config.name)


class _TrainingNetwork(keras.Model):
    """A network with side outputs, whose losses are added to that of the map."""

    def __init__(self, network: keras.Model, sides: Sequence[SideOutput]) -> None:
        super().__init__(name=f"{network.name}_in_training")
        self._outputs = keras.Model(network.input, [network.output, *(side.output for side in sides)])
        self._targets = [(side.target, side.weight) for side in sides]

    def call(self, images: Any, training: bool | None = None) -> list[Any]:  # noqa: FBT001
        """Map images (N, H, W, C) to the map and the side outputs."""
        outputs: list[Any] = self._outputs(images, training=training)
        return outputs

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,  # noqa: FBT001, FBT002
    ) -> Any:
        """Add the losses of the side outputs to that of the map."""
        loss = super().compute_loss(x, y, y_pred[0], sample_weight, training)
        for (target, weight), output in zip(self._targets if training else (), y_pred[1:], strict=training):
            loss += weight * (_presence_loss(y, output) if target == "presence" else self.loss(y, output))
        return loss

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> dict[str, Any]:
        """Compute the metrics of only the map."""
        metrics: dict[str, Any] = super().compute_metrics(x, y, y_pred[0], sample_weight)
        return metrics


def _presence_loss(y_true: Any, y_pred: Any) -> Any:
    """Compare (N, K) with whether each class occurs in the mask (N, h, w, K)."""
    present = keras.ops.cast(keras.ops.max(y_true, axis=(1, 2)) > 0.5, y_pred.dtype)
    return keras.ops.mean(keras.ops.binary_crossentropy(present, y_pred))
