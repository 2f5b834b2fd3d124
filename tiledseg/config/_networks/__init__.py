"""Settings of the networks: one module per architecture, and their union by `name`."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import Field

from tiledseg.config._networks._attention_unet import AttentionUNetConfig
from tiledseg.config._networks._base import ArchitectureConfig
from tiledseg.config._networks._unet import UNetConfig

__all__ = [
    "ArchitectureConfig",
    "AttentionUNetConfig",
    "NetworkConfig",
    "UNetConfig",
]

NetworkConfig: TypeAlias = Annotated[
    UNetConfig | AttentionUNetConfig,
    Field(discriminator="name"),
]
"""Settings of any architecture; ``name`` says of which."""
