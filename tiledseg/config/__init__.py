"""Settings: pydantic models, checked when they are made; each module is imported when it is first needed."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
