"""Architectures, one module for each family, and the builder of each by its settings or its name.

`tiledseg.models.builder` contains their common blocks.

To add an architecture:

1. Its settings: a subclass of `ArchitectureConfig` in ``config/networks.py`` with its ``name`` as a
   ``Literal``, its own fields with their meanings, its ``stride``, and, if pretrained weights expect
   it, its ``preprocessing``. Add it to the union `NetworkConfig`. Then the command line, settings
   files and bundles accept it.
2. Its builder: ``models/architectures/<name>.py`` with a subclass of `NetworkBuilder`:
   `encode`, `decode`, and `finish` and `side_outputs` where they differ. Add the pair to the table
   below.
3. One entry in ``tests/test_models_architectures.py``: small settings, and the number of parameters
   of the default settings with its source. The tests there are the contract.

Rules for a builder:

- It uses only Keras 3 (`keras.layers`, `keras.ops`), so that it runs on each backend.
- Each layer has a unique name, the same in each build: bundles store weights by these names.
  Operations of `keras.ops` cannot be named, so they are used inside layers.
- A custom layer is registered with ``keras.saving.register_keras_serializable("tiledseg")``. Its
  attribute ``context`` states what an output px depends on: ``"px"`` for only that px, ``"tile"``
  for the whole tile or the position in it, or a pair of the rules of tiling (`Slide`, `Grow`,
  `Windows`), along y and x. Without the attribute, `plan` reports an unknown receptive field.
- It accepts any number of input channels and classes, and its output is float32 at any precision.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tiledseg._backend import keras
from tiledseg._validate import instance_of
from tiledseg.config import (
    ArchitectureConfig,
    AttentionUNetConfig,
    DeepLabV3PlusConfig,
    EfficientUNetConfig,
    EncoderUNetConfig,
    MultiResUNetConfig,
    ResEncUNetConfig,
    SharpUNetConfig,
    SwinUNetConfig,
    TransUNetConfig,
    U2NetConfig,
    UNet3PlusConfig,
    UNetConfig,
    architecture_of,
)
from tiledseg.models.architectures.deeplabv3plus import DeepLabV3PlusBuilder
from tiledseg.models.architectures.residual_unet import MultiResUNetBuilder, ResEncUNetBuilder
from tiledseg.models.architectures.swin_unet import SwinUNetBuilder
from tiledseg.models.architectures.trans_unet import TransUNetBuilder
from tiledseg.models.architectures.u2net import U2NetBuilder
from tiledseg.models.architectures.unet import (
    AttentionUNetBuilder,
    EncoderUNetBuilder,
    SharpUNetBuilder,
    UNetBuilder,
)
from tiledseg.models.architectures.unet3plus import UNet3PlusBuilder

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tiledseg.config import NetworkConfig
    from tiledseg.models.builder import NetworkBuilder

_BUILDERS: dict[type[ArchitectureConfig], type[NetworkBuilder[Any]]] = {
    AttentionUNetConfig: AttentionUNetBuilder,
    MultiResUNetConfig: MultiResUNetBuilder,
    ResEncUNetConfig: ResEncUNetBuilder,
    SharpUNetConfig: SharpUNetBuilder,
    U2NetConfig: U2NetBuilder,
    UNet3PlusConfig: UNet3PlusBuilder,
    UNetConfig: UNetBuilder,
    DeepLabV3PlusConfig: DeepLabV3PlusBuilder,
    EfficientUNetConfig: EncoderUNetBuilder,
    EncoderUNetConfig: EncoderUNetBuilder,
    SwinUNetConfig: SwinUNetBuilder,
    TransUNetConfig: TransUNetBuilder,
}


def build_model(config: NetworkConfig | Mapping[str, object] | str) -> keras.Model:
    """Build a network by its settings.

    Parameters
    ----------
    config : NetworkConfig, mapping or str
        Settings of an architecture; a mapping contains its ``name`` and any of its settings. A name alone
        means the architecture with its defaults.

    Returns
    -------
    keras.Model
        Maps images (N, H, W, C) to outputs (N, H, W, K) float32.

    Raises
    ------
    SettingError
        If the name or a setting is unknown, or a value is invalid.

    Examples
    --------
    >>> build_model({"name": "unet", "levels": 2, "base_filters": 4, "input_shape": (64, 64, 3)}).output_shape
    (None, 64, 64, 1)
    """
    return builder_for(config).build()


def builder_for(config: NetworkConfig | Mapping[str, object] | str) -> NetworkBuilder[Any]:
    """Return the builder for the settings of an architecture."""
    settings = architecture_of(config)
    return _BUILDERS[type(settings)](settings)


def training_network(network: keras.Model, architecture: NetworkConfig) -> keras.Model:
    """Return the network to compile and fit: with side outputs, if the settings have any."""
    # Prediction does not need side outputs: the saved network does not contain them.
    instance_of(keras.Model, network, "network", "Build it with build_model.")
    return builder_for(architecture).training_network(network)
