from .config import TilingConfig, UNetConfig
from .errors import TiledSegError

__all__ = ["TiledSegError", "TilingConfig", "UNetConfig"]
