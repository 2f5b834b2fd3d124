"""An ONNX network as a Predictor, run by OpenVINO or by ONNX Runtime."""

from __future__ import annotations

import logging
import math
import threading
import time
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

import lazy_loader
import numpy as np

from tiledseg._extras import extra
from tiledseg._validate import invalid
from tiledseg.config import OnnxConfig
from tiledseg.engine.onnx.file import layout_of, output_of, read_onnx, stated_classes
from tiledseg.engine.onnx.graph import read_graph, size_at
from tiledseg.engine.predictor import checked_outputs, failures_named, padded, ready_shape
from tiledseg.errors import ModelError, SettingError
from tiledseg.tiling import check_multiple

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from tiledseg import _backend
    from tiledseg._types import AnyArray, FloatArray, PathLike
    from tiledseg.config import Engine, Precision
    from tiledseg.engine import openvino
    from tiledseg.engine.onnx.file import OnnxFile
    from tiledseg.engine.onnx.graph import OnnxGraph
    from tiledseg.engine.predictor import Predictor
    from tiledseg.tiling import ReceptiveField

    _Call: TypeAlias = Callable[[AnyArray], AnyArray]
else:
    _backend = lazy_loader.load("tiledseg._backend", suppress_warning=True)
    openvino = lazy_loader.load("tiledseg.engine.openvino", suppress_warning=True)

_log = logging.getLogger("tiledseg")
_ALIVE = {"openvino": 1.7, "onnxruntime": 3.5}  # memory over that of the maps alive at once; measured
_TOLERANCE = 1e-4  # of the largest output, between the two engines
_PROVIDERS = (
    "CUDAExecutionProvider",
    "DmlExecutionProvider",
    "CoreMLExecutionProvider",
    "CPUExecutionProvider",
)


class OnnxNetwork:
    """A network of an ONNX file: one image in, one map out.

    Attributes
    ----------
    channels : int or None
        Input channels C; None where the file leaves them free.
    classes : int or None
        Output channels K; None where they cannot be derived before the first call.
    tile_size : tuple of int or None
        Input height and width in px; None where free.
    stride : tuple of int
        Total stride (y, x) in px.
    fingerprint : str
        SHA-256 of the file, its settings and what is stored beside it.
    """

    def __init__(
        self,
        path: PathLike,
        output: str | None = None,
        layout: Literal["channels_first", "channels_last"] | None = None,
    ) -> None:
        self.file: OnnxFile = read_onnx(path)
        self.layout: Literal["channels_first", "channels_last"] = layout_of(self.file, layout)
        self.output: str = output_of(self.file, output)
        last = self.layout == "channels_last"
        self._graph: OnnxGraph = read_graph(self.file, self.output, channels_last=last)
        shape = self.file.input.shape
        self.channels: int | None = shape[3] if last else shape[1]
        self.tile_size: tuple[int | None, int | None] = shape[1:3] if last else shape[2:4]  # type: ignore[assignment]
        self.classes: int | None = _classes(self._graph.output) or stated_classes(
            self.file, self.output, last=last
        )
        self.stride: tuple[int, int] = self._graph.stride
        self.receptive_field: ReceptiveField = self._graph.receptive_field
        self.batch: int | None = self._graph.batch  # tiles per call; None where free
        self.output_axes: str | None = _axes(self._graph.output)
        self.fingerprint: str = f"{self.file.digest}-{self.output}-{self.layout}"
        self._checked: set[tuple[int, int]] = set()
        self._default: OnnxPredictor | None = None
        self._session: Any = None

    @property
    def input_shape(self) -> tuple[int | None, ...]:
        """Shape of its input, (None, h, w, C), as of a keras.Model."""
        return (None, *self.tile_size, self.channels)

    @property
    def output_shape(self) -> tuple[int | None, ...]:
        """Shape of its output, (None, h, w, K), as of a keras.Model."""
        return (None, *self.tile_size, self.classes)

    @property
    def architecture(self) -> OnnxConfig:
        """What a bundle says of it.

        Raises
        ------
        ModelError
            If the file leaves the number of channels or classes open.
        """
        for name, number in (("channels", self.channels), ("classes", self.classes)):
            if number is None:
                must, fix = f"state its {name}", "Export it with that axis fixed."
                raise invalid(ModelError, str(self.file.path), must=must, got="a free axis", fix=fix)
        return OnnxConfig(
            input_shape=(*self.tile_size, self.channels or 0),
            classes=self.classes or 0,
            final_activation=self._graph.final_activation,
            strides=self.stride,
            output=self.output,
            layout=self.layout,
        )

    def content(self) -> bytes:
        """Return the file with what is stored beside it.

        Returns
        -------
        bytes
            One ONNX file.
        """
        model = extra("onnx", "onnx").load(str(self.file.path))
        for tensor in model.graph.initializer:
            tensor.ClearField("data_location")
            tensor.ClearField("external_data")
        found: bytes = model.SerializeToString(deterministic=True)
        return found

    def count_params(self) -> int:
        """Count the parameters.

        Returns
        -------
        int
            Numbers in all constants of the file.
        """
        return sum(math.prod(one.shape) for one in self.file.constants.values())

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the path: each process reads the file for itself."""
        return _read_again, (str(self.file.path.resolve()), self.output, self.layout, self.file.digest)

    def __repr__(self) -> str:
        """Name the file."""
        return f"OnnxNetwork({str(self.file.path)!r}, output={self.output!r})"

    def bytes_per_tile(self, tile_size: tuple[int, int]) -> int:
        """Estimate the memory in bytes that one tile needs.

        Parameters
        ----------
        tile_size : tuple of int
            Height and width in px.

        Returns
        -------
        int
            Bytes of the maps that are in memory at once, as the engine arranges them.
        """
        return int(_ALIVE[_engines("auto")[0]] * 4 * self._graph.floats_per_px * tile_size[0] * tile_size[1])

    def check_tile(self, tile_size: tuple[int, int]) -> None:
        """Check that the network maps tiles of a size to maps of that size.

        Parameters
        ----------
        tile_size : tuple of int
            Height and width in px.

        Raises
        ------
        SettingError
            If the file has another fixed size, or the size is no multiple of the stride.
        ModelError
            If the map has another size.
        """
        if tile_size in self._checked:
            return
        for axis, fixed, size in zip("yx", self.tile_size, tile_size, strict=True):
            if fixed not in {None, size}:
                raise invalid(
                    SettingError,
                    "tile_size",
                    must=f"be {fixed} px along {axis}, the network's input",
                    got=size,
                    fix=f"Use tile_size={fixed}, or export the network with dynamic axes.",
                )
        for size, step in zip(tile_size, self.stride, strict=True):
            check_multiple(size, step)
        found = size_at(self.file, self.output, tile_size, channels_last=self.layout == "channels_last")
        if found not in {None, tile_size}:
            raise invalid(
                ModelError,
                f"output {self.output!r}",
                must=f"have the tile's size {tile_size}",
                got=found,
                fix="Choose another output, or export the network with a resize at its end.",
            )
        self._checked.add(tile_size)

    def __call__(self, tiles: AnyArray, /) -> FloatArray:
        """Map tiles (N, h, w, C) of any real dtype to outputs (N, h, w, K) float32."""
        if self._default is None:
            self._default = OnnxPredictor(self, "auto", "f32")
        return self._default(tiles)

    def by_engine(self, engine: Engine, precision: Precision) -> Predictor:
        """Return a predictor for an engine and a precision.

        Parameters
        ----------
        engine : {"auto", "openvino", "onnxruntime"}
            ``auto`` takes the faster one of those that are installed, by the first batch.
        precision : {"f32", "bf16"}
            only OpenVINO has ``bf16``.

        Returns
        -------
        Predictor
            Runs the network.

        Raises
        ------
        SettingError
            If the engine is not installed.
        """
        return OnnxPredictor(self, engine, precision)


def _axes(layout: Any) -> str | None:  # noqa: ANN401
    """Return the kinds of the output's axes, as in ncyx; None where not known."""
    if layout is None or len(layout) != 4 or "y" not in {kind for axis in layout for kind, _ in axis}:
        return None
    return "nyxc" if [kind for kind, _ in layout[1]] == ["y"] else "ncyx"


def _read_again(
    path: str, output: str, layout: Literal["channels_first", "channels_last"], digest: str
) -> Any:  # noqa: ANN401
    network = OnnxNetwork(path, output, layout)
    if network.file.digest != digest:
        fix = "Give every process the same file."
        raise invalid(ModelError, path, must="be the same file everywhere", got="another digest", fix=fix)
    return network


def _classes(layout: Any) -> int | None:  # noqa: ANN401
    if layout is None:
        return None
    lengths = [length for axis in layout for kind, length in axis if kind == "c"]
    return lengths[0] if lengths else 1


def _engines(engine: Engine) -> list[str]:
    """Return the engines that may run a network, the likely fastest first."""
    known = ("openvino", "onnxruntime") if engine == "auto" else (engine,)
    found = [name for name in known if find_spec(name) is not None]
    if not found:
        name = "openvino" if engine == "auto" else engine
        extra(name, "fast" if name == "openvino" else "onnx")  # raises with the command that installs it
    return found


class OnnxPredictor:
    """A network of an ONNX file, ready to be called; see `OnnxNetwork`."""

    def __init__(self, network: OnnxNetwork, engine: Engine, precision: Precision) -> None:
        if precision == "bf16" and not openvino.computes_bf16():
            _log.warning("This processor does not multiply bf16, and emulating it is slower: f32 is used.")
            precision = "f32"
        if engine == "keras" or (engine == "onnxruntime" and precision != "f32"):
            got = f"engine={engine!r} and precision={precision!r}"
            fix = "Use engine='auto'."
            raise invalid(ModelError, "runtime", must="suit an ONNX network", got=got, fix=fix)
        _backend.check_process()
        self.network, self._precision = network, precision
        self._engines = _engines("openvino" if precision == "bf16" else engine)
        self.channels, self.classes, self.tile_size = network.channels, network.classes, network.tile_size
        self.stride, self.receptive_field = network.stride, network.receptive_field
        self.bytes_per_tile, self.check_tile = network.bytes_per_tile, network.check_tile
        self._calls: dict[tuple[int, ...], _Call] = {}
        self._lock = threading.Lock()

    def __call__(self, tiles: AnyArray, /) -> FloatArray:
        """Map tiles (N, h, w, C) to outputs (N, h, w, K) float32."""
        _backend.check_process()
        if self.channels not in {None, tiles.shape[3]}:
            must, fix = f"have {self.channels} channels", "Give the image these channels."
            raise invalid(ModelError, "tiles", must=must, got=tiles.shape, fix=fix)
        batch = self.network.batch
        if batch is None:
            return self._run(tiles)
        parts = [self._run(tiles[start : start + batch], batch) for start in range(0, len(tiles), batch)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _run(self, tiles: AnyArray, batch: int | None = None) -> FloatArray:
        shape = (batch, *tiles.shape[1:]) if batch else ready_shape(self._calls, tiles.shape)
        last = self.network.layout == "channels_last"
        ready = padded(tiles, shape[0])
        ready = ready if last else np.ascontiguousarray(ready.transpose(0, 3, 1, 2))
        ready = self._cast(ready)
        with failures_named(tiles.shape):
            if shape not in self._calls:
                with self._lock:
                    if shape not in self._calls:
                        self._calls[shape] = self._made(ready)
            outputs = np.asarray(self._calls[shape](ready))
        outputs = self._channels_last(outputs, shape)
        self.classes = self.network.classes = outputs.shape[3]
        return checked_outputs(outputs, shape)[: len(tiles)].astype(np.float32, copy=False)

    def _cast(self, tiles: AnyArray) -> AnyArray:
        """Cast tiles to the dtype of the file's input: engines would do so without a word."""
        dtype = np.dtype(self.network.file.input.dtype)
        if dtype.kind == "f":
            return tiles.astype(dtype, copy=False)
        limits = np.iinfo(dtype)
        if not ((tiles == np.floor(tiles)) & (tiles >= limits.min) & (tiles <= limits.max)).all():
            fix = "Give the image's own px: no preprocessing that scales them."
            got = f"values from {tiles.min():g} to {tiles.max():g}"
            raise invalid(ModelError, "tiles", must=f"be whole numbers of {dtype}", got=got, fix=fix)
        return tiles.astype(dtype)

    def _channels_last(self, outputs: AnyArray, shape: tuple[int, ...]) -> AnyArray:
        """Return outputs (N, h, w, K)."""
        if outputs.ndim == 3:
            return outputs[..., np.newaxis]
        kinds = self.network.output_axes or (
            "nyxc" if self.network.layout == "channels_last" and outputs.shape[1:3] == shape[1:3] else "ncyx"
        )
        return outputs if kinds == "nyxc" else np.ascontiguousarray(outputs.transpose(0, 2, 3, 1))

    def _made(self, batch: AnyArray) -> _Call:
        """Return the faster one of the engines; both are asked for the same outputs."""
        calls = [_MAKERS[engine](self.network, batch.shape, self._precision) for engine in self._engines]
        if len(calls) == 1:
            return calls[0]
        first, second = (np.asarray(call(batch)) for call in calls)
        worst = float(np.abs(first - second).max()) / max(1.0, float(np.abs(second).max()))
        seconds = [_seconds(call, batch) for call in calls]
        taken = 1 if worst > _TOLERANCE or seconds[1] < seconds[0] else 0
        if worst > _TOLERANCE:
            _log.warning(
                "OpenVINO differs from ONNX Runtime by %.2g of the largest output: it is not used.", worst
            )
        self._engines = [self._engines[taken]]
        return calls[taken]


def _seconds(call: _Call, batch: AnyArray) -> float:
    start = time.perf_counter()
    call(batch)
    return time.perf_counter() - start


def _by_openvino(network: OnnxNetwork, shape: tuple[int, ...], precision: Precision) -> _Call:
    core = openvino.core()
    model = core.read_model(network.file.path)
    model.reshape({network.file.input.name: list(shape)})
    return openvino.compiled(model, precision, network.output)


def _by_onnxruntime(network: OnnxNetwork, shape: tuple[int, ...], precision: Precision) -> _Call:
    del shape, precision  # one session runs all shapes, in the numbers of the file
    session = network._session = network._session or _session(network)
    name = network.file.input.name

    def call(batch: AnyArray) -> AnyArray:
        found: AnyArray = session.run([network.output], {name: batch})[0]
        return found

    return call


def _session(network: OnnxNetwork) -> Any:  # noqa: ANN401
    runtime = extra("onnxruntime", "onnx")
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # only errors
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # threads that spin slow others
    providers = [one for one in _PROVIDERS if one in runtime.get_available_providers()]
    return runtime.InferenceSession(str(network.file.path), options, providers=providers)


_MAKERS: dict[str, Callable[[OnnxNetwork, tuple[int, ...], Precision], _Call]] = {
    "openvino": _by_openvino,
    "onnxruntime": _by_onnxruntime,
}
