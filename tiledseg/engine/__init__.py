"""Turns a model of any kind into a Network that is ready to be run on batches of tiles."""

from tiledseg.config import TTA as Views
from tiledseg.config import Engine, Precision
from tiledseg.engine._choose import Packing, Way, fastest, n_devices, networks_for, own_views, predictor_for
from tiledseg.engine.batching import (
    Batcher,
    allowed_memory,
    available_memory,
    check_memory,
    fitting_batch,
    overlapped,
)
from tiledseg.engine.callable import CallablePredictor, Predictor
from tiledseg.engine.network import ModelReference, Network, SegmenterLike
from tiledseg.engine.tta import n_copies
from tiledseg.engine.tta import n_copies as n_views

__all__ = [
    "Batcher",
    "CallablePredictor",
    "Engine",
    "ModelReference",
    "Network",
    "Packing",
    "Precision",
    "Predictor",
    "SegmenterLike",
    "Views",
    "Way",
    "allowed_memory",
    "available_memory",
    "check_memory",
    "fastest",
    "fitting_batch",
    "n_copies",
    "n_devices",
    "n_views",
    "networks_for",
    "overlapped",
    "own_views",
    "predictor_for",
]
