"""Models of any kind resolved into a Network, which runs on batches of tiles."""

from tiledseg.engine.batching import COPIES
from tiledseg.engine.layers import Layers, StoredNetwork, stored_record
from tiledseg.engine.network import Network
from tiledseg.engine.onnx import OnnxNetwork, WrittenOnnx, read_onnx, to_onnx
from tiledseg.engine.predictor import (
    CallablePredictor,
    ModelReference,
    Predictor,
    check_fixed,
    check_probabilities,
    warn_of_sums,
)

__all__ = [
    "COPIES",
    "CallablePredictor",
    "Layers",
    "ModelReference",
    "Network",
    "OnnxNetwork",
    "Predictor",
    "StoredNetwork",
    "WrittenOnnx",
    "check_fixed",
    "check_probabilities",
    "read_onnx",
    "stored_record",
    "to_onnx",
    "warn_of_sums",
]
