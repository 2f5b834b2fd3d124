from ._version import __version__
from .config import TilingConfig, UNetConfig
from .errors import TiledSegError

__all__ = ["TiledSegError", "TilingConfig", "UNetConfig", "__version__"]
