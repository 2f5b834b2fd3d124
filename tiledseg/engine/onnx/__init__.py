"""ONNX networks: files that are checked, their receptive field, and their engines."""

from tiledseg.engine.onnx.network import OnnxNetwork

__all__ = ["OnnxNetwork"]
