"""Networks: architectures by name, losses, and segmenters saved as safe bundles."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)  # Keras loads when it is needed
