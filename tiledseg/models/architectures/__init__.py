"""Architectures, one module for each paper; what they share is in `tiledseg.models.blocks`.

To add an architecture:

1. Its settings: a subclass of `ArchitectureConfig` in ``config/networks.py`` that has its ``name``
   as a ``Literal``, its own fields with their meanings, its ``stride``, and, where pretrained
   weights expect it, its ``preprocessing``. Add it to the union `NetworkConfig`. The command line,
   settings files and bundles know it from then on.
2. Its builder: ``models/architectures/<name>.py`` with a subclass of `NetworkBuilder`: `encode`,
   `decode`, and `finish` and `side_outputs` where they differ. Add the pair to
   ``models/registry.py``.
3. One entry in ``tests/test_models_architectures.py``: small settings, and the number of parameters
   of the default ones with its source. The suite there is the contract.

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
