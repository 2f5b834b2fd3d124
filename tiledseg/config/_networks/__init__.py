"""Settings of the networks: one module per architecture, and their union by `name`."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import Field

from tiledseg.config._networks._attention_unet import AttentionUNetConfig
from tiledseg.config._networks._base import ArchitectureConfig
from tiledseg.config._networks._deeplabv3plus import DeepLabV3PlusConfig
from tiledseg.config._networks._encoder_unet import EfficientUNetConfig, EncoderUNetConfig
from tiledseg.config._networks._multires_unet import MultiResUNetConfig
from tiledseg.config._networks._resenc_unet import ResEncUNetConfig
from tiledseg.config._networks._sharp_unet import SharpUNetConfig
from tiledseg.config._networks._swin_unet import SwinUNetConfig
from tiledseg.config._networks._trans_unet import TransUNetConfig
from tiledseg.config._networks._u2net import U2NetConfig
from tiledseg.config._networks._unet import UNetConfig
from tiledseg.config._networks._unet3plus import UNet3PlusConfig

__all__ = [
    "ArchitectureConfig",
    "AttentionUNetConfig",
    "DeepLabV3PlusConfig",
    "EfficientUNetConfig",
    "EncoderUNetConfig",
    "MultiResUNetConfig",
    "NetworkConfig",
    "ResEncUNetConfig",
    "SharpUNetConfig",
    "SwinUNetConfig",
    "TransUNetConfig",
    "U2NetConfig",
    "UNet3PlusConfig",
    "UNetConfig",
]

NetworkConfig: TypeAlias = Annotated[
    UNetConfig
    | AttentionUNetConfig
    | DeepLabV3PlusConfig
    | EfficientUNetConfig
    | EncoderUNetConfig
    | SwinUNetConfig
    | TransUNetConfig
    | MultiResUNetConfig
    | ResEncUNetConfig
    | SharpUNetConfig
    | U2NetConfig
    | UNet3PlusConfig,
    Field(discriminator="name"),
]
"""Settings of any architecture; ``name`` says of which."""
