"""The same network in PyTorch: a functional Keras network, layer by layer, with its weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["TorchTwin"]

_ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "linear": lambda x: x,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
}


class TorchTwin(torch.nn.Module):
    """Maps (N, C, h, w) to (N, K, h, w) as the Keras network maps (N, h, w, C) to (N, h, w, K)."""

    def __init__(self, model: Any, device: str = "cpu") -> None:
        super().__init__()
        torch.set_default_device(device)  # of the weights, which the steps keep
        self._steps: list[tuple[Callable[..., torch.Tensor], list[int], int]] = []
        self._input, self._output = id(model.inputs[0]), id(model.outputs[0])
        for layer in model.layers:
            kind = type(layer).__name__
            if kind != "InputLayer":
                before = layer.input if isinstance(layer.input, list) else [layer.input]
                step = _STEPS[kind](layer)
                self._steps.append((step, [id(tensor) for tensor in before], id(layer.output)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = {self._input: x}
        left = [needed for _, before, _ in self._steps for needed in before]
        for step, before, after in self._steps:
            maps[after] = step(*(maps[needed] for needed in before))
            for needed in before:
                left.remove(needed)
                if needed not in left:
                    maps.pop(needed, None)  # as PyTorch would free it
        return maps[self._output]


def _tensor(weight: Any, *order: int) -> torch.Tensor:
    array = np.asarray(weight.numpy())
    values = np.ascontiguousarray(array.transpose(order) if order else array)
    return torch.from_numpy(values).to(torch.get_default_device())


def _conv(layer: Any) -> Callable[..., torch.Tensor]:
    weight, bias = _tensor(layer.kernel, 3, 2, 0, 1), _tensor(layer.bias) if layer.use_bias else None
    spread = layer.dilation_rate[0]
    padding, act = layer.kernel_size[0] // 2 * spread, _ACTIVATIONS[layer.activation.__name__]
    return lambda x: act(functional.conv2d(x, weight, bias, padding=padding, dilation=spread))


def _transposed(layer: Any) -> Callable[..., torch.Tensor]:
    weight, bias = _tensor(layer.kernel, 3, 2, 0, 1), _tensor(layer.bias) if layer.use_bias else None
    act = _ACTIVATIONS[layer.activation.__name__]
    return lambda x: act(functional.conv_transpose2d(x, weight, bias, stride=layer.strides[0]))


def _norm(layer: Any) -> Callable[..., torch.Tensor]:
    mean, variance = _tensor(layer.moving_mean), _tensor(layer.moving_variance)
    gamma, beta = _tensor(layer.gamma), _tensor(layer.beta)
    return lambda x: functional.batch_norm(x, mean, variance, gamma, beta, eps=layer.epsilon)


_STEPS: dict[str, Callable[[Any], Callable[..., torch.Tensor]]] = {
    "Activation": lambda layer: _ACTIVATIONS[layer.activation.__name__],
    "BatchNormalization": _norm,
    "Concatenate": lambda _: lambda *maps: torch.cat(maps, dim=1),
    "Conv2D": _conv,
    "Conv2DTranspose": _transposed,
    "Dropout": lambda _: lambda x: x,
    "MaxPooling2D": lambda layer: lambda x: functional.max_pool2d(x, layer.pool_size[0]),
    "SpatialDropout2D": lambda _: lambda x: x,
}
