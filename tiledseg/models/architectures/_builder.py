"""What the builders of all architectures share: encoder, decoder, head, and how they meet."""

from __future__ import annotations

from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from tiledseg._backend import keras
from tiledseg.config import ArchitectureConfig
from tiledseg.models.architectures._blocks import head

__all__ = ["NetworkBuilder", "Side"]

_Settings_co = TypeVar("_Settings_co", bound=ArchitectureConfig, covariant=True)


@dataclass(frozen=True, slots=True)
class Side:
    """An output besides the map, which has a loss of its own in training and none else."""

    output: Any  # probabilities (N, h, w, K) of the input's size; or (N, K) for ``presence``
    # what it is held against: the mask by the loss of the map; or whether a class is anywhere in the
    # mask, by binary cross-entropy
    target: Literal["mask", "presence"] = "mask"
    weight: float = 1.0  # factor of its loss; that of the map has 1


@dataclass(frozen=True)
class NetworkBuilder(ABC, Generic[_Settings_co]):
    """Base of what builds a network from its settings.

    A subclass gives `encode` and `decode`; `finish` where the output is more than a convolution
    of 1 px; and `sides` where training has more losses than that of the output. First values come
    from Keras' generators: call ``keras.utils.set_random_seed`` before `build` for the same ones
    each time.

    Attributes
    ----------
    config : ArchitectureConfig
        The settings.
    """

    config: _Settings_co

    @abstractmethod
    def encode(self, image: Any) -> list[Any]:  # noqa: ANN401  a symbolic tensor, which Keras does not type
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
    def decode(self, features: list[Any]) -> Any:  # noqa: ANN401
        """Merge the features of all levels.

        Parameters
        ----------
        features : list of tensor
            What `encode` gave.

        Returns
        -------
        tensor
            What `finish` takes: usually features (N, H, W, F).
        """

    def finish(self, features: Any) -> Any:  # noqa: ANN401
        """Turn features into the output.

        Parameters
        ----------
        features : tensor
            What `decode` gave.

        Returns
        -------
        tensor
            Outputs (N, H, W, K) float32.
        """
        return head(features, self.config.classes, self.config.final_activation)

    def fill(self, network: keras.Model) -> None:
        """Give a network weights that were learnt elsewhere.

        Parameters
        ----------
        network : keras.Model
            As it was drawn; one that is built blank is not filled.
        """

    def sides(self, network: keras.Model) -> tuple[Side, ...]:  # noqa: ARG002
        """Name the outputs that training has besides the map.

        Parameters
        ----------
        network : keras.Model
            What `build` gave; sides take their features from its layers, by their names.

        Returns
        -------
        tuple of Side
            None by default.
        """
        return ()

    def build(self, *, blank: bool = False) -> keras.Model:
        """Build the network.

        Parameters
        ----------
        blank : bool
            Whether all weights are zero, for a caller that fills them in; drawing them takes
            seconds for a large network.

        Returns
        -------
        keras.Model
            Maps images (N, H, W, C) to outputs (N, H, W, K) float32; N and each free size is None.
        """
        if not blank:
            network = self._network()
            self.fill(network)
            return network
        with keras.StatelessScope():  # variables that are made in it get their values at its end
            network = self._network()
            for variable in network.weights:
                variable._initializer = keras.initializers.Zeros()
        return network

    def count(self) -> int:
        """Count the parameters without making them.

        Returns
        -------
        int
            Parameters, those that are not trained counted in.
        """
        # A thread of its own: Keras keeps a list, per thread, of variables that still need values.
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(self._declared).result()

    def _declared(self) -> int:
        with keras.StatelessScope(initialize_variables=False):
            return int(self._network().count_params())

    def _network(self) -> keras.Model:
        image = keras.layers.Input(self.config.input_shape, name="image")
        return keras.Model(image, self.finish(self.decode(self.encode(image))), name=self.config.name)
