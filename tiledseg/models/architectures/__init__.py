"""Architectures, one module for each family; `tiledseg.models.builder` contains their common blocks.

To add an architecture:

1. Its settings: a subclass of `ArchitectureConfig` in ``config/networks.py`` with its ``name`` as a
   ``Literal``, its own fields with their meanings, its ``stride``, and, if pretrained weights expect
   it, its ``preprocessing``. Add it to the union `NetworkConfig`. Then the command line, settings
   files and bundles accept it.
2. Its builder: ``models/architectures/<name>.py`` with a subclass of `NetworkBuilder`: `encode`,
   `decode`, and `finish` and `side_outputs` where they differ. Add the pair to
   ``models/registry.py``.
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
