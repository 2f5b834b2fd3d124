"""Segment images larger than your network: tiled, blended without seams, in bounded memory.

`tiled_predict` gives the map of an image of any size, `segment` its objects, and `predict_files` both for
many files; `plan` says beforehand what a prediction takes. `load_model` loads a saved network; `Trainer` and
`Evaluator` train and score one. Names are loaded when they are first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
