"""How far tiled maps are from the map of the whole image: the table of docs/tiling.md.

What: small networks of every architecture, random weights, fine and coarse noise, 704 x 896 px; where
exact tiles would be larger than that, a strip that is one tile high. Batch normalisations have the
statistics of that image, and random gains and offsets. Each map is compared with that of the network
run on the whole image at once: the largest difference of probabilities, and the px computed per image
px. Ours are ``overlap="exact"``, and the default tiling, a quarter of the tile and gaussian. MONAI is
``sliding_window_inference`` with an overlap of 0.25 and its gaussian mode, as in its examples.
nnU-Net's grid is written here as its paper (Isensee et al., 2021) and its code describe it: strides
of at most half a tile, spread evenly, and a gaussian with a sigma of an eighth of the tile, without
its test-time augmentation. How: the same Keras network, tile and image for all four; Keras computes
all of them, so that only the tiling differs. Where no tiling can be exact, the table gives the plan's
reason. Target: 1e-5 for the exact tiling. ``python -m benchmarks.exactness`` writes the table into
the page, between its two markers.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import cv2
import keras
import numpy as np
import torch
from monai.inferers import sliding_window_inference

from benchmarks._rows import Row
from tiledseg import TilingConfig, build_model, plan, tiled_predict
from tiledseg.config import NetworkConfig
from tiledseg.engine import Network

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tiledseg._types import FloatArray
    from tiledseg.predict import Plan

__all__ = ["run"]

_MOST, _LEAST_CONTRAST = 1e-5, 0.05
_GRAINS = (1, 4, 16, 64)  # px
_IMAGE, _TILE = (704, 896), (384, 384)
_MONAI_OVERLAP = 0.25
_METHODS = ('`overlap="exact"`', "default tiling", "MONAI", "nnU-Net's grid")
_PAGE = Path(__file__).parents[1] / "docs" / "tiling.md"
_BEGIN, _END = "<!-- exactness: begin -->", "<!-- exactness: end -->"


@dataclass(frozen=True, slots=True)
class _Case:
    """A network, with the sizes of tile and image."""

    network: dict[str, Any]
    tile: tuple[int, int] = _TILE
    shape: tuple[int, int] = _IMAGE


@dataclass(frozen=True, slots=True)
class _Found:
    """The result of a case: for each method the difference and the computed px per px."""

    case: _Case
    plan: Plan
    methods: dict[str, tuple[float, float]]


_CASES = {
    "`unet`, 5 levels, 3 px kernels": _Case({
        "name": "unet", "levels": 5, "base_filters": 8, "base_kernel": 3, "dropout": 0.0,
    }),
    "`unet`, the founding network's 8 levels and 9 px": _Case(
        {"name": "unet", "base_filters": 2, "dropout": 0.0}, (256, 2304), (256, 4608)
    ),
    "`attention_unet`": _Case({"name": "attention_unet", "base_filters": 8}),
    "`multires_unet`": _Case({"name": "multires_unet", "base_filters": 8}, (448, 448)),
    "`sharp_unet`": _Case({"name": "sharp_unet", "base_filters": 8, "norm": "batch"}),
    "`unet3plus`": _Case({"name": "unet3plus", "base_filters": 4, "skip_filters": 4}),
    "`resenc_unet`, `norm=\"batch\"`": _Case(
        {"name": "resenc_unet", "levels": 5, "base_filters": 8, "blocks": (1, 2, 2, 2, 2), "norm": "batch"},
        (448, 448),
    ),
    "`u2net`": _Case({"name": "u2net", "size": "lite", "width": 0.125}, (64, 7168), (64, 14336)),
    "`encoder_unet`, mobilenet": _Case(
        {"name": "encoder_unet", "encoder": "mobilenet", "decoder_filters": (16, 16, 8, 8, 8)},
        (576, 576),
    ),
    "`deeplabv3plus`, mobilenet, `image_pooling=False`": _Case(
        {
            "name": "deeplabv3plus", "encoder": "mobilenet", "filters": 16, "image_pooling": False,
            "dropout": 0.0,
        },
        (64, 2048), (64, 8192),
    ),
    "`swin_unet`": _Case({
        "name": "swin_unet", "patch": 2, "window": 4, "embedding": 24, "depths": (2, 2), "heads": (1, 2),
        "drop_path": 0.0,
    }),
    "`resenc_unet`": _Case({"name": "resenc_unet", "levels": 5, "base_filters": 8}),
    "`encoder_unet`": _Case({"name": "encoder_unet"}),
    "`efficient_unet`": _Case({"name": "efficient_unet"}),
    "`deeplabv3plus`": _Case({"name": "deeplabv3plus", "encoder": "mobilenet", "filters": 16}),
    "`trans_unet`": _Case({
        "name": "trans_unet", "width": 8, "units": (1, 1, 1), "hidden": 16, "layers": 1, "heads": 2,
        "mlp": 32, "decoder_filters": (8, 8, 8, 8), "input_shape": (*_TILE, 3),
    }),
}  # fmt: skip


def run(quick: bool = False) -> list[Row]:  # noqa: FBT001, FBT002
    """Measure all cases; only the first and the last if `quick`."""
    _check_cases()
    cases = list(_CASES.items())
    return [row for name, case in (cases[:: len(cases) - 1] if quick else cases) for row in _rows(name, case)]


def _check_cases() -> None:
    """Check that no architecture is missing."""
    known = {kind.model_fields["name"].default for kind in get_args(get_args(NetworkConfig)[0])}
    missing = known - {case.network["name"] for case in _CASES.values()}
    if missing:
        raise KeyError(", ".join(sorted(missing)))


def _rows(name: str, case: _Case) -> list[Row]:
    found, name = _measured(case), name.replace("`", "")
    if not found.methods:
        return [Row(f"{name}: exact tiling", math.inf, note=found.plan.reason)]
    return [
        Row(
            f"{name}: {method.replace('`', '')}",
            off,
            at_most=_MOST if method == _METHODS[0] else None,
            beside=f"{px:.2f} px computed per px",
        )
        for method, (off, px) in found.methods.items()
    ]


def _measured(case: _Case) -> _Found:
    keras.utils.set_random_seed(0)
    model = build_model({"input_shape": (None, None, 3), **case.network})
    exact = plan(model, case.shape, TilingConfig(tile_size=case.tile))
    if exact.verdict == "impossible":
        return _Found(case, exact, {})
    tilings = [TilingConfig(tile_size=case.tile, overlap="exact"), TilingConfig(tile_size=case.tile)]
    plans = [plan(model, case.shape, tiling) for tiling in tilings]
    _check_plan(plans[0])
    image = _image(case.shape)
    _settle(model, image)
    whole = Network.of(model)(image[None])[0]
    if whole.std() < _LEAST_CONTRAST:
        raise ArithmeticError(f"{case.network['name']} says nearly the same everywhere")
    maps = [
        (tiled_predict(model, image, tiling, batch_size=1, runtime={"engine": "keras"}), one.grid.redundancy)
        for tiling, one in zip(tilings, plans, strict=True)
    ]
    for method in (_monai, _nnunet):
        network = _Counting(Network.of(model))
        maps.append((method(network, image, case.tile), network.px / math.prod(case.shape)))
    found = [(float(np.abs(probs - whole).max()), px) for probs, px in maps]
    return _Found(case, plans[0], dict(zip(_METHODS, found, strict=True)))


def _image(shape: tuple[int, int]) -> FloatArray:
    """Make fine and coarse noise, so that every px changes the outputs everywhere."""
    draw, total = np.random.default_rng(0), np.zeros((*shape, 3), np.float32)
    for grain in _GRAINS:
        noise = draw.random((*(-(-size // grain) for size in shape), 3), np.float32)
        total += cv2.resize(noise, shape[::-1], interpolation=cv2.INTER_LINEAR)
    return total / len(_GRAINS)


def _check_plan(exact: Plan) -> None:
    """Check that there are several tiles, and that the whole is the image without padding."""
    grid = exact.grid
    padded = [axis.padded_length for axis in (grid.y, grid.x)] != list(grid.shape)
    if exact.verdict != "exact" or len(grid) == 1 or padded:
        raise ArithmeticError(f"this shows nothing:\n{exact}")


def _settle(model: Any, image: FloatArray) -> None:
    """Return normalisations the image's statistics, and each channel a random gain and offset."""
    draw = np.random.default_rng(0)
    for layer in _all_layers(model):
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
            for variable in layer.trainable_variables:
                variable.assign(draw.uniform(0.5, 1.5, variable.shape))
    model(image[None], training=True)


def _all_layers(model: Any) -> Iterator[Any]:
    """Return the layers of a network and of the networks in it."""
    for layer in model.layers:
        yield from _all_layers(layer) if isinstance(layer, keras.Model) else [layer]


class _Counting:
    """The network as a function from arrays to arrays that counts the px of its inputs."""

    def __init__(self, predictor: Callable[[FloatArray], FloatArray]) -> None:
        self._predictor, self.px = predictor, 0

    def __call__(self, tiles: FloatArray) -> FloatArray:
        self.px += math.prod(tiles.shape[:3])
        return self._predictor(np.ascontiguousarray(tiles))


def _monai(network: _Counting, image: FloatArray, tile: tuple[int, int]) -> FloatArray:
    def predictor(windows: torch.Tensor) -> torch.Tensor:
        return torch.tensor(np.moveaxis(network(np.moveaxis(windows.numpy(), 1, -1)), -1, 1))

    tensor = torch.from_numpy(np.ascontiguousarray(np.moveaxis(image, -1, 0)))[None]
    found = sliding_window_inference(tensor, tile, 1, predictor, _MONAI_OVERLAP, "gaussian")
    return np.moveaxis(found[0].numpy(), 0, -1)


def _nnunet(network: _Counting, image: FloatArray, tile: tuple[int, int]) -> FloatArray:
    bells = (np.exp(-0.5 * ((np.arange(size) - (size - 1) / 2) / (size / 8)) ** 2) for size in tile)
    bell = np.multiply.outer(*bells)[..., None]
    total, weight = np.zeros((*image.shape[:2], 1)), np.zeros((*image.shape[:2], 1))
    for y in _starts(image.shape[0], tile[0]):
        for x in _starts(image.shape[1], tile[1]):
            where = np.s_[y : y + tile[0], x : x + tile[1]]
            total[where] += bell * network(image[where][None])[0]
            weight[where] += bell
    return (total / weight).astype(np.float32)


def _starts(length: int, tile: int) -> list[int]:
    """Spread tiles evenly, at most half a tile apart."""
    steps = math.ceil(2 * (length - tile) / tile)
    return [round(number * (length - tile) / max(steps, 1)) for number in range(steps + 1)]


def _main() -> None:
    _check_cases()
    head = [
        "| network | image, px | tile, px | exact overlap, px |",
        *(f" {method} |" for method in _METHODS),
    ]
    lines = ["".join(head), "|---" * (4 + len(_METHODS)) + "|"]
    reasons = ["| no tiling is exact | because |", "|---|---|"]
    for name, case in _CASES.items():
        found = _measured(case)
        line = _line(name, found)
        (lines if found.methods else reasons).append(line)
        print(line, file=sys.stderr, flush=True)
    before, rest = _PAGE.read_text(encoding="utf-8").split(_BEGIN)
    after = rest.split(_END)[1]
    table = "\n".join([*lines, "", *reasons])
    _PAGE.write_text(f"{before}{_BEGIN}\n{table}\n{_END}{after}", encoding="utf-8")


def _line(name: str, found: _Found) -> str:
    if not found.methods:
        return f"| {name} | {found.plan.reason} |"
    sizes = (" x ".join(map(str, size)) for size in (found.case.shape, found.case.tile))
    overlap = max(found.plan.grid.y.overlap, found.plan.grid.x.overlap)
    cells = [name, *sizes, str(overlap), *(f"{off:.1g} ({px:.1f})" for off, px in found.methods.values())]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    _main()
