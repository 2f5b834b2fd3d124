"""ONNX networks: files that are checked, their receptive field, and their engines."""

from tiledseg.engine.onnx.file import read_onnx
from tiledseg.engine.onnx.network import OnnxNetwork
from tiledseg.engine.onnx.writer import WrittenOnnx, to_onnx

__all__ = ["OnnxNetwork", "WrittenOnnx", "read_onnx", "to_onnx"]
