"""Architectures by name: one module each, blocks shared only where the papers share them.

To add an architecture:

1. Its settings: ``config/_networks/_<name>.py`` with a subclass of `ArchitectureConfig` that has
   its ``name`` as a ``Literal``, its own fields with their meanings under Attributes, its
   ``stride``, and, where weights from elsewhere expect it, its ``preprocessing``. Add it to the
   union `NetworkConfig` in ``config/_networks/__init__.py``. The command line, settings files and
   bundles know it from then on.
2. Its builder: ``models/architectures/_<name>.py`` with a subclass of `NetworkBuilder`: `encode`,
   `decode`, and `finish` and `sides` where they differ. Add the pair to ``_registry.py``.
3. One entry in ``tests/test_architectures.py``: small settings, and the number of parameters of
   the default ones with its source. The suite there is the contract.

What a builder keeps to:

- Keras 3 alone (`keras.layers`, `keras.ops`), so that it runs on each backend.
- Each layer has a name of its own, the same in each build: bundles know weights by them. Operations
  of `keras.ops` cannot be named, so they stand inside layers.
- A layer of one's own is registered with ``keras.saving.register_keras_serializable("tiledseg")``
  and says by its attribute ``looks_at`` what an output px depends on: ``"px"`` for that px alone,
  ``"tile"`` for the whole tile or the px's place in it, or a pair of the rules of tiling (`Slide`,
  `Grow`, `Windows`), along y and x. Without it `plan` calls its receptive field unknown.
- It takes any input channels and classes, and ends in float32 whatever the precision.
"""

from tiledseg.models.architectures._builder import NetworkBuilder, Side
from tiledseg.models.architectures._registry import build_model, builder_for
from tiledseg.models.architectures._unet import UNetBuilder

__all__ = ["NetworkBuilder", "Side", "UNetBuilder", "build_model", "builder_for"]
