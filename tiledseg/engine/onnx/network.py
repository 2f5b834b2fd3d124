"""An ONNX network: what its file states and its graph shows."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

from tiledseg._lazy import extra
from tiledseg._validate import invalid
from tiledseg.config import OnnxConfig
from tiledseg.engine.onnx.file import layout_of, output_of, read_onnx, stated_classes
from tiledseg.engine.onnx.graph import at_size, read_graph
from tiledseg.engine.onnx.predictor import OnnxPredictor
from tiledseg.engine.predictor import check_fixed
from tiledseg.errors import ModelError
from tiledseg.tiling import check_multiple

if TYPE_CHECKING:
    from tiledseg._types import AnyArray, FloatArray, PathLike
    from tiledseg.config import Engine, Precision
    from tiledseg.engine.onnx.file import OnnxFile
    from tiledseg.engine.onnx.graph import AtSize, OnnxGraph
    from tiledseg.engine.predictor import Predictor
    from tiledseg.tiling import ReceptiveField

_HALF = frozenset({10, 16})  # float16 and bfloat16 in ONNX
_MOST_NUMBERS = 1 << 31  # of one feature map of a tile


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
        self.output_axes: str | None = _axes(self._graph.output, self.output)
        self.fingerprint: str = f"{self.file.digest}-{self.output}-{self.layout}"
        self._checked: set[tuple[int, int]] = set()
        self._sizes: dict[tuple[int, int], AtSize] = {}
        self._predictors: dict[tuple[str, str], OnnxPredictor] = {}  # with what they have compiled

    @property
    def input_shape(self) -> tuple[int | None, ...]:
        """Shape of its input, (None, h, w, C), as of a keras.Model."""
        return (None, *self.tile_size, self.channels)

    @property
    def output_shape(self) -> tuple[int | None, ...]:
        """Shape of its output, (None, h, w, K), as of a keras.Model."""
        return (None, *self.tile_size, self.classes)

    @property
    def final_activation(self) -> Literal["sigmoid", "softmax"] | None:
        """The activation that the output comes from; None for any other operation."""
        return self._graph.final_activation

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
            final_activation=self.final_activation,
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

    @property
    def computes_half(self) -> bool:
        """Whether maps have 16 bits somewhere, as an engine may compute them."""
        casts = any(one.kind == "Cast" and one.attributes.get("to") in _HALF for one in self.file.nodes)
        return casts or self.file.input.dtype in {"float16", "bfloat16"}

    def bytes_per_tile(self, tile_size: tuple[int, int]) -> int:
        """Estimate the memory in bytes that one tile needs.

        Parameters
        ----------
        tile_size : tuple of int
            Height and width in px.

        Returns
        -------
        int
            Bytes of the maps that are in memory at once, as the engines that may run it arrange them.
        """
        return self.by_engine("auto", "f32").bytes_per_tile(tile_size)

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
        check_fixed(tile_size, self.tile_size, "export the network with dynamic axes")
        for size, step in zip(tile_size, self.stride, strict=True):
            check_multiple(size, step)
        found = self.at(tile_size).output
        self._check_maps(tile_size)
        self._check_facts(tile_size)
        if found not in {None, tile_size}:
            raise invalid(
                ModelError,
                f"output {self.output!r}",
                must=f"have the tile's size {tile_size}",
                got=found,
                fix="Choose another output, or export the network with a resize at its end.",
            )
        self._checked.add(tile_size)

    def at(self, tile_size: tuple[int, int]) -> AtSize:
        """Return what its graph computes of one tile of a size.

        Parameters
        ----------
        tile_size : tuple of int
            Height and width in px.

        Returns
        -------
        AtSize
            Size of the output, numbers of the largest map and of those that are in memory at once.
        """
        if tile_size not in self._sizes:
            last = self.layout == "channels_last"
            self._sizes[tile_size] = at_size(self.file, self.output, tile_size, channels_last=last)
        return self._sizes[tile_size]

    def _check_maps(self, tile_size: tuple[int, int]) -> None:
        """Refuse a size at which a map has far more numbers than any engine computes."""
        largest = self.at(tile_size).largest
        if largest > _MOST_NUMBERS:
            raise invalid(
                ModelError,
                str(self.file.path),
                must=f"have feature maps of at most {_MOST_NUMBERS} numbers",
                got=f"one of {largest:.3g} for tiles of {tile_size[0]} x {tile_size[1]} px",
                fix="Use smaller tiles.",
            )

    def _check_facts(self, tile_size: tuple[int, int]) -> None:
        """Refuse a size at which the graph computes otherwise than at large ones, which its verdict is of."""
        if self.receptive_field.axes is None or self.at(tile_size).facts == self._graph.facts:
            return
        got = f"another branch or constant for {tile_size[0]} x {tile_size[1]} px"
        fix = "Use larger tiles, or export it without conditions on the size."
        must = "compute tiles as it computes larger images"
        raise invalid(ModelError, str(self.file.path), must=must, got=got, fix=fix)

    def __call__(self, tiles: AnyArray, /) -> FloatArray:
        """Map tiles (N, h, w, C) of any real dtype to outputs (N, h, w, K) float32."""
        return self.by_engine("auto", "f32")(tiles)

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
        key = (engine, precision)
        if key not in self._predictors:
            self._predictors[key] = OnnxPredictor(self, engine, precision)
        return self._predictors[key]


def _axes(layout: Any, output: str) -> str | None:
    """Return the kinds of the output's axes, as in ncyx; None where not known."""
    places = [kind for axis in layout or () for kind, _ in axis if kind in "yx"]
    if places == ["x", "y"]:
        must, got = "have rows before columns", "columns before rows"
        raise invalid(
            ModelError, f"output {output!r}", must=must, got=got, fix="Leave out its transposition."
        )
    if layout is None or len(layout) != 4 or "y" not in {kind for axis in layout for kind, _ in axis}:
        return None
    return "nyxc" if [kind for kind, _ in layout[1]] == ["y"] else "ncyx"


def _read_again(
    path: str, output: str, layout: Literal["channels_first", "channels_last"], digest: str
) -> Any:
    network = OnnxNetwork(path, output, layout)
    if network.file.digest != digest:
        fix = "Give every process the same file."
        raise invalid(ModelError, path, must="be the same file everywhere", got="another digest", fix=fix)
    return network


def _classes(layout: Any) -> int | None:
    if layout is None:
        return None
    lengths = [length for axis in layout for kind, length in axis if kind == "c"]
    return lengths[0] if lengths else 1
