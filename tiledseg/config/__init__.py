"""Settings: pydantic models, checked when they are made."""

from tiledseg.config._base import Config
from tiledseg.config._network import PreprocessingConfig, UNetConfig
from tiledseg.config._tiling import Blend, PadMode, TilingConfig

__all__ = ["Blend", "Config", "PadMode", "PreprocessingConfig", "TilingConfig", "UNetConfig"]
