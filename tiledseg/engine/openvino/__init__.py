"""OpenVINO as an engine: the graph that layers describe, compiled, and compared with Keras."""

from tiledseg.engine.openvino.layers import built
from tiledseg.engine.openvino.predictor import OpenVinoPredictor, compiled, computes_bf16, core

__all__ = ["OpenVinoPredictor", "built", "compiled", "computes_bf16", "core"]
