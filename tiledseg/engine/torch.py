"""A PyTorch module as a Predictor: channels moved, no gradients."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from tiledseg._validate import invalid
from tiledseg.engine.predictor import CallablePredictor
from tiledseg.errors import ModelError

if TYPE_CHECKING:
    from tiledseg._types import AnyArray, FloatArray

_EXPORT = (
    "To learn whether tiled equals whole, export it: "
    "torch.onnx.export(model, (example,), 'net.onnx', dynamo=False, input_names=['x'], "
    "dynamic_axes={'x': {0: 'n', 2: 'h', 3: 'w'}}), and predict with 'net.onnx'."
)


class TorchPredictor(CallablePredictor):
    """A PyTorch module (N, C, h, w) -> (N, K, h, w)."""

    likely_stride = 64  # px; its graph cannot be read

    def __init__(self, module: Any) -> None:  # noqa: ANN401
        if module.training:
            fix = "Call model.eval() first: batch normalization and dropout behave differently in training."
            raise invalid(ModelError, "model", must="be in inference mode", got="training mode", fix=fix)
        self._module = module
        super().__init__(self._channels_moved)

    def _channels_moved(self, tiles: FloatArray) -> AnyArray:
        torch = sys.modules["torch"]
        weight = next(iter([*self._module.parameters(), *self._module.buffers()]), None)
        batch = torch.from_numpy(np.ascontiguousarray(tiles.transpose(0, 3, 1, 2)))
        if weight is not None:
            batch = batch.to(weight.device)
            batch = batch.to(weight.dtype) if weight.dtype.is_floating_point else batch
        with torch.inference_mode():
            outputs = self._module(batch)
        if not isinstance(outputs, torch.Tensor):
            got = f"{type(outputs).__name__} {list(outputs) if isinstance(outputs, dict) else ''}".strip()
            fix = f"Wrap it in a module that returns the map, such as outputs['out']. {_EXPORT}"
            raise invalid(ModelError, "model", must="return one tensor", got=got, fix=fix)
        found: AnyArray = outputs.float().cpu().numpy()
        return found[..., np.newaxis] if found.ndim == 3 else found.transpose(0, 2, 3, 1)
