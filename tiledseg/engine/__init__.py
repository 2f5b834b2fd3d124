"""Turns a model of any kind into a Network that is ready to be run on batches of tiles."""

from tiledseg.engine.batching import available_memory
from tiledseg.engine.callable import CallablePredictor, Predictor
from tiledseg.engine.network import ModelReference, Network
from tiledseg.engine.tta import COPIES

__all__ = [
    "COPIES",
    "CallablePredictor",
    "ModelReference",
    "Network",
    "Predictor",
    "available_memory",
]
