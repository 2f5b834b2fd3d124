"""OpenVINO as an engine: the graph that layers describe, compiled, and compared with Keras."""

from tiledseg.engine.openvino.predictor import OpenVinoPredictor, computes_bf16

__all__ = ["OpenVinoPredictor", "computes_bf16"]
