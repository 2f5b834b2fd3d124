"""Networks on a GPU: ONNX Runtime, PyTorch and JAX under ``tiled_predict``, beside MONAI.

What: an image of 1920 x 2560 px in 512 px tiles with 64 px of overlap, gaussian, four tiles per call. MONAI's
U-Net with batch norm runs by MONAI's ``sliding_window_inference``, as a PyTorch module under
``tiled_predict``, and as an ONNX file by ONNX Runtime's CUDA provider. A Keras U-Net of 5 levels runs by JAX,
and rebuilt in PyTorch by MONAI. How: each contender in a process of its own, once to warm up, then five
times, the fastest counts; the map ends in the main memory. Beside each: the device, and the largest
difference from the first contender with the same network, that of the two libraries' windows included. Where
there is no GPU, nothing is measured.
"""

from __future__ import annotations

import subprocess
import warnings
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

import tiledseg as ts
from benchmarks._clock import timed
from benchmarks._fresh import call_fresh
from benchmarks._rows import Row

if TYPE_CHECKING:
    from collections.abc import Callable

    from tiledseg._types import FloatArray

__all__ = ["measured", "run"]

_TILING = {"tile_size": 512, "overlap": 64, "blend": "gaussian"}
_BATCH = 4
_NAME = "MONAI UNet, batch norm"
_JAX = {"KERAS_BACKEND": "jax"}
_PLACES = 64  # px of a map that contenders are compared at, along each axis


def run(quick: bool = False) -> list[Row]:  # noqa: FBT001, FBT002
    """Measure."""
    device = call_fresh("benchmarks.gpu:device_name")
    if not device:
        return [Row("no PyTorch with a GPU: nothing is measured", 0.0)]
    rows, firsts = [], {}
    for what, (network, _) in CONTENDERS.items():
        try:
            seconds, sample = call_fresh(
                "benchmarks.gpu:measured", _JAX if "JAX" in what else None, what=what, quick=quick
            )
        except subprocess.CalledProcessError:
            rows.append(Row(f"{what}: failed, see the console", float("nan")))
            continue
        first = firsts.setdefault(network, np.array(sample))
        off = float(np.abs(first - np.array(sample)).max() / np.abs(first).max())
        rows.append(Row(f"{network}: {what}", seconds, "s", beside=f"{device}, {off:.1e} from the first"))
    return rows


def device_name() -> str:
    """Return the name of the GPU that PyTorch sees; empty where there is none, or no PyTorch."""
    if find_spec("torch") is None:
        return ""
    cuda = import_module("torch").cuda
    return cuda.get_device_name() if cuda.is_available() else ""


def measured(what: str, *, quick: bool, device: str = "cuda") -> tuple[float, list[float]]:
    """Return the seconds of one contender, and a sample of its map."""
    warnings.filterwarnings("ignore")
    height, width = (960, 1408) if quick else (1920, 2560)
    image = np.random.default_rng(0).random((height, width, 3), np.float32)
    call = CONTENDERS[what][1](image, device)
    found = call()
    seconds = min(timed(call)[0] for _ in range(2 if quick else 5))
    return seconds, found[:: height // _PLACES, :: width // _PLACES].ravel().tolist()


def _module(device: str) -> Any:
    return import_module("benchmarks._networks").built(_NAME).to(device)


def _monai(image: FloatArray, device: str, module: Any = None) -> Callable[[], FloatArray]:
    torch, infer = import_module("torch"), import_module("monai.inferers").sliding_window_inference
    module = module or _module(device)
    overlap = _TILING["overlap"] / _TILING["tile_size"]

    def call() -> FloatArray:
        with torch.inference_mode():
            x = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None].to(device)
            size = (_TILING["tile_size"],) * 2
            out = infer(x, size, _BATCH, module, overlap, mode="gaussian")
        return out[0].cpu().numpy().transpose(1, 2, 0)

    return call


def _ours(model: Any, image: FloatArray, **runtime: str) -> Callable[[], FloatArray]:
    return lambda: ts.tiled_predict(model, image, _TILING, batch_size=_BATCH, runtime=runtime)


def _torch(image: FloatArray, device: str) -> Callable[[], FloatArray]:
    return _ours(_module(device), image)


def _onnxruntime(image: FloatArray, device: str) -> Callable[[], FloatArray]:
    if device == "cuda":
        runtime = import_module("onnxruntime")
        runtime.preload_dlls()
        if "CUDAExecutionProvider" not in runtime.get_available_providers():
            raise ModuleNotFoundError("ONNX Runtime has no CUDA provider: pip install onnxruntime-gpu")
    path = import_module("benchmarks.onnx").exported(_NAME, "legacy")
    return _ours(ts.load_model(path), image, engine="onnxruntime")


def _keras_network() -> Any:
    """Build a Keras network with random weights, the same with each backend."""
    config = ts.UNetConfig(levels=5, base_filters=16, base_kernel=3, input_shape=(None, None, 3))
    model, rng = ts.build_model(config), np.random.default_rng(0)
    scales = [(2 / max(1, int(np.prod(one.shape[:-1])))) ** 0.5 for one in model.weights]
    values = [rng.normal(0, scale, one.shape) for one, scale in zip(model.weights, scales, strict=True)]
    names = [one.path for one in model.weights]
    model.set_weights(
        [np.abs(one) + 0.5 if "varia" in name else one for one, name in zip(values, names, strict=True)]
    )
    return model


def _jax(image: FloatArray, device: str) -> Callable[[], FloatArray]:
    backend = import_module("jax").default_backend()
    if backend != {"cuda": "gpu"}.get(device, device):
        raise ModuleNotFoundError(f"JAX runs on {backend}: pip install 'jax[cuda13]'")
    return _ours(_keras_network(), image, engine="keras")


def _twin(image: FloatArray, device: str) -> Callable[[], FloatArray]:
    twin = import_module("benchmarks._torch_twin").TorchTwin(_keras_network(), device)
    return _monai(image, device, twin)


CONTENDERS: dict[str, tuple[str, Callable[[FloatArray, str], Callable[[], FloatArray]]]] = {
    "MONAI, PyTorch": ("U-Net of MONAI", _monai),
    "tiled_predict, PyTorch module": ("U-Net of MONAI", _torch),
    "tiled_predict, ONNX Runtime": ("U-Net of MONAI", _onnxruntime),
    "MONAI, PyTorch, rebuilt": ("U-Net of Keras", _twin),
    "tiled_predict, JAX": ("U-Net of Keras", _jax),
}
"""The network of each contender, and what makes it ready for an image on a device."""
