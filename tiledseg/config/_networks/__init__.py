"""Settings of the networks: one module per architecture, and their union by `name`."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import Field

from tiledseg.config._networks._attention_unet import AttentionUNetConfig
from tiledseg.config._networks._base import ArchitectureConfig
from tiledseg.config._networks._deeplabv3plus import DeepLabV3PlusConfig
from tiledseg.config._networks._encoder_unet import EfficientUNetConfig, EncoderUNetConfig
from tiledseg.config._networks._swin_unet import SwinUNetConfig
from tiledseg.config._networks._trans_unet import TransUNetConfig
from tiledseg.config._networks._unet import UNetConfig

__all__ = [
    "ArchitectureConfig",
    "AttentionUNetConfig",
    "DeepLabV3PlusConfig",
    "EfficientUNetConfig",
    "EncoderUNetConfig",
    "NetworkConfig",
    "SwinUNetConfig",
    "TransUNetConfig",
    "UNetConfig",
]

NetworkConfig: TypeAlias = Annotated[
    UNetConfig
    | AttentionUNetConfig
    | DeepLabV3PlusConfig
    | EfficientUNetConfig
    | EncoderUNetConfig
    | SwinUNetConfig
    | TransUNetConfig,
    Field(discriminator="name"),
]
"""Settings of any architecture; ``name`` says of which."""
