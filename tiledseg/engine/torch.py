"""A module of PyTorch as a Predictor; PyTorch is not loaded by it."""

from __future__ import annotations

import hashlib
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

    def __init__(self, module: Any) -> None:
        if found := _trained(module):
            fix = "Call model.eval() first, before an export too: batch normalization and dropout behave "
            fix += "differently in training. If a part has to, pass a function that calls the module."
            raise invalid(ModelError, "model", must="be in inference mode", got=found, fix=fix)
        if found := _of_batches(module):
            fix = (
                "Train it with track_running_stats=True. If it has to, pass a function that calls the module."
            )
            must = "give a tile the same output whatever else is in its batch"
            raise invalid(
                ModelError, "model", must=must, got=f"`{found}` without running statistics", fix=fix
            )
        self._module = module
        super().__init__(self._channels_moved)

    def digest(self) -> str:
        """Digest of its parts, as they are printed, and of its weights; its code cannot be read."""
        torch, digest = sys.modules["torch"], hashlib.sha256(repr(self._module).encode())
        for name, value in self._module.state_dict().items():
            digest.update(f"{name} {getattr(value, 'dtype', value)} {getattr(value, 'shape', '')}".encode())
            if isinstance(value, torch.Tensor):
                digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return f"sha256:{digest.hexdigest()}"

    def _channels_moved(self, tiles: FloatArray) -> AnyArray:
        torch = sys.modules["torch"]
        weights = [*self._module.parameters(), *self._module.buffers()]
        # the first real one says in what numbers it computes: counters and tables of indices are whole
        weight = next((one for one in weights if one.is_floating_point()), next(iter(weights), None))
        batch = torch.from_numpy(np.ascontiguousarray(tiles.transpose(0, 3, 1, 2)))
        if weight is not None:
            batch = batch.to(weight.device)
            batch = batch.to(weight.dtype) if weight.is_floating_point() else batch
        with torch.inference_mode():
            outputs = self._module(batch)
        if not isinstance(outputs, torch.Tensor):
            got = f"{type(outputs).__name__} {list(outputs) if isinstance(outputs, dict) else ''}".strip()
            fix = f"Wrap it in a module that returns the map, such as outputs['out']. {_EXPORT}"
            raise invalid(ModelError, "model", must="return one tensor", got=got, fix=fix)
        if outputs.ndim not in {3, 4}:
            must, size = "return a map (N, K, h, w)", tuple(outputs.shape)
            fix = "It returns no map of a tile: take a network for segmentation, without pooling at its end."
            if size == tuple(tiles.shape[1:3]):
                fix = "Leave axes of length 1: a `squeeze` drops that of a batch of one tile, too."
            raise invalid(ModelError, "model", must=must, got=size, fix=fix)
        # Class numbers and bytes stay integers: they are refused, as those of any function.
        found: AnyArray = (outputs.float() if outputs.is_floating_point() else outputs).cpu().numpy()
        return found[..., np.newaxis] if found.ndim == 3 else found.transpose(0, 2, 3, 1)


def _trained(module: Any) -> str:
    """Name what is in training mode: the module, one of its parts, or an operation of an exported program."""
    if "eval" not in vars(module):
        training = (name for name, part in module.named_modules() if getattr(part, "training", False))
        name = next(training, None)  # a frozen module has no mode
        return "" if name is None else f"`{name}` in training mode" if name else "training mode"
    for node in module.graph.nodes:  # the operations of an exported program keep the mode that it had
        schema = getattr(node.target, "_schema", None)
        for option, value in zip(schema.arguments if schema else (), node.args, strict=False):
            if option.name in ("training", "train") and value is True:
                return f"{node.name} exported in training mode"
    return ""


def _of_batches(module: Any) -> str:
    """Name a batch normalization that has no running statistics, and so takes those of each batch."""
    kind = sys.modules["torch"].nn.modules.batchnorm._BatchNorm
    parts = ((name, part) for name, part in module.named_modules() if isinstance(part, kind))
    return next((name or type(part).__name__ for name, part in parts if part.running_mean is None), "")
