"""What must hold for whatever is drawn: tilings, maps, networks, and images that are changed."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

import tiledseg as ts
from benchmarks.scorecard._rows import Figure, Trial, good, row
from tiledseg.engine import Network
from tiledseg.errors import TiledSegError
from tiledseg.objects import ObjectsSink
from tiledseg.tiling import AxisGrid, Stitcher, Tiler, axis_windows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Draw = Callable[[np.random.Generator], str | None]

_BLENDS = ("constant", "linear", "hann", "gaussian", "crop")
_PADS = ("reflect", "symmetric", "edge", "wrap", "constant")


def _axis(rng: np.random.Generator, longest: int = 300) -> AxisGrid:
    tile = int(rng.integers(1, 65))
    overlap = int(rng.integers(tile))
    return AxisGrid(int(rng.integers(1, longest)), tile, overlap, int(rng.integers(1, tile - overlap + 1)))


def _cores(rng: np.random.Generator) -> str | None:
    """Cores partition an axis, tiles cover it, and origins are aligned."""
    axis = _axis(rng)
    cores = axis.cores
    ends = [0, *(core[1] for core in cores)]
    whole = all(core[0] == end for core, end in zip(cores, ends, strict=False)) and ends[-1] == axis.length
    aligned = all(origin % axis.alignment == 0 for origin in axis.origins)
    steps = np.diff(axis.origins)
    covers = axis.origins[-1] + axis.tile >= axis.length and (steps <= axis.tile - axis.overlap).all()
    return None if whole and aligned and covers else f"{axis}: {cores}"


def _windows(rng: np.random.Generator) -> str | None:
    """Weights of an axis sum to exactly one in float32, and none is negative."""
    axis, blend = _axis(rng), str(rng.choice(_BLENDS))
    sums = np.zeros(axis.padded_length, np.float32)
    for window in axis_windows(axis, blend):
        sums[window.start : window.stop] += window.weights
        if (window.weights < 0).any():
            return f"{axis} {blend}: a negative weight"
    return None if (sums[: axis.length] == 1).all() else f"{axis} {blend}: {sums}"


def _round_trip(rng: np.random.Generator) -> str | None:
    """The tiles of an image, stitched in any order, are the image; ones stay ones."""
    y, x = _axis(rng, 60), _axis(rng, 60)
    image = rng.integers(0, 200, (y.length, x.length, int(rng.integers(1, 4)))).astype(np.uint8)
    image[..., -1] = 1
    config = ts.TilingConfig(
        tile_size=(y.tile, x.tile), overlap=(y.overlap, x.overlap), alignment=(y.alignment, x.alignment),
        blend=rng.choice(_BLENDS).item(), pad_mode=rng.choice(_PADS).item(),
    )  # fmt: skip
    tiler = Tiler(config)
    grid = tiler.grid(image.shape)
    stitcher = Stitcher(grid, image.shape[2])
    for batch in tiler.batches(image, 8, grid=grid, ids=rng.permutation(len(grid)).tolist()):
        stitcher.add(batch.ids, batch.tiles)
    found = stitcher.merge()
    near = np.abs(found - image).max() <= 2e-4 and (found[..., -1] == 1).all()  # 1e-6 of 200
    return None if near else f"{config!r} of {image.shape}"


def _objects(rng: np.random.Generator) -> str | None:
    """Labels of a map that arrives in bands or blocks are those of the whole, as OpenCV counts them."""
    height, width = rng.integers(1, 30, 2).tolist()
    mask = (rng.random((height, width)) < rng.random()).astype(np.uint8)
    connectivity = int(rng.choice([4, 8]))
    sink = ObjectsSink(mask.shape, mask.dtype, {"connectivity": connectivity})
    step, across = rng.integers(1, 31, 2).tolist()
    corners = [(y, x) for y in range(0, height, step) for x in range(0, width, across)]
    for place in rng.permutation(len(corners)):
        y, x = corners[place]
        sink[y : y + step, x : x + across] = mask[y : y + step, x : x + across]
    found = np.empty(mask.shape, np.uint32)
    table = sink.finish(found).table
    n, wanted, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=connectivity)
    pairs = np.unique(np.stack([found.ravel(), wanted.ravel()]), axis=1)
    same = pairs.shape[1] == n - (mask.all() and n == 2) and len(table["label"]) == n - 1
    areas = sorted(table["area"].tolist()) == sorted(stats[1:, cv2.CC_STAT_AREA].tolist())
    return None if same and areas else f"{mask.tolist()} {connectivity}"


_PROPERTIES: dict[str, tuple[Draw, float]] = {
    "tiles and cores of an axis": (_cores, 0.4), "weights of an axis": (_windows, 0.3),
    "round trips of tiles": (_round_trip, 0.2), "objects of maps in blocks": (_objects, 0.1),
}  # fmt: skip


@row(
    12,
    "properties of tiling, stitching and objects that are drawn",
)
def properties(trial: Trial) -> Iterator[Figure]:
    for what, (check, share) in _PROPERTIES.items():
        count = trial.count(round(100_000 * share), 10)
        yield good(what, (_checked(check, np.random.default_rng([trial.seed, n])) for n in range(count)))


def _checked(check: Draw, rng: np.random.Generator) -> str | None:
    try:
        return check(rng)
    except Exception as error:  # noqa: BLE001  which is the fault
        return f"{check.__name__}: {error!r}"


def _onnx_fault(seed: int, folder: Path) -> str | None:
    """Draw a graph; None where tiled equals whole, `other` where the verdict is not exact."""
    from tests.test_engine_onnx import random_graph, session  # noqa: PLC0415

    path = random_graph(seed, folder)
    if path is None:
        return "other"
    run = session(path).run
    return _tiled_fault(
        path,
        lambda image: run(["y"], {"x": image.transpose(0, 3, 1, 2)})[0].transpose(0, 2, 3, 1),
        seed,
    )


def _keras_fault(seed: int, _folder: Path) -> str | None:
    model = _drawn_keras(np.random.default_rng(seed))
    return _tiled_fault(model, lambda image: np.asarray(model(image, training=False)), seed)


def _drawn_keras(rng: np.random.Generator) -> Any:
    """Draw an encoder and decoder: convolutions of all kinds, poolings, up-samplings, skips, norms."""
    from keras import Input, Model, layers  # noqa: PLC0415

    def block(x: Any) -> Any:
        kernel, depth = int(rng.choice([1, 3, 5])), int(rng.choice([2, 3, 4]))
        kind = int(rng.integers(4))
        if kind == 0:
            x = layers.DepthwiseConv2D(kernel, padding="same")(x)
        elif kind == 1:
            x = layers.SeparableConv2D(depth, kernel, padding="same")(x)
        else:
            x = layers.Conv2D(depth, kernel, padding="same", dilation_rate=1 + int(kind == 2))(x)
        x = layers.BatchNormalization()(x) if rng.random() < 0.5 else x
        return layers.Activation(str(rng.choice(["relu", "gelu", "tanh", "silu"])))(x)

    x = inputs = Input((None, None, 3))
    skips = []
    for _ in range(int(rng.integers(0, 3))):
        x = block(x)
        skips.append(x)
        smaller = [
            layers.MaxPooling2D(),
            layers.AveragePooling2D(2),
            layers.Conv2D(3, 3, 2, padding="same"),
        ]
        x = smaller[int(rng.integers(3))](x)
    x = block(x)
    for skip in reversed(skips):
        larger = [
            layers.UpSampling2D(),
            layers.UpSampling2D(interpolation="bilinear"),
            layers.Conv2DTranspose(3, int(rng.integers(2, 5)), 2, padding="same"),
        ]
        x = larger[int(rng.integers(3))](x)
        x = layers.Concatenate()([x, skip]) if rng.random() < 0.7 else block(x)
    return Model(inputs, layers.Conv2D(2, 1)(x))


def _tiled_fault(model: Any, whole: Callable[[Any], Any], seed: int) -> str | None:
    """Compare a prediction by exact tiles with the network on the whole image."""
    rng = np.random.default_rng(seed)
    try:
        network = Network.of(model)
        if network.receptive_field.halo is None:
            return "other"
        step, need = max(network.stride), 2 * max(max(ends) for ends in network.receptive_field.halo)
        tile = -(-(need + step + int(rng.integers(0, 40))) // step) * step
        if tile > 300:
            return "other"
        tiling = {"tile_size": tile, "overlap": "exact"}
        plan = ts.plan(model, (tile + 2 * step, tile + 3 * step, 3), tiling)
        if plan.verdict != "exact":
            return "other"
        image = rng.normal(0, 1, (tile + 2 * step, tile + 3 * step, 3)).astype(np.float32)
        found = ts.tiled_predict(model, image, tiling)
    except TiledSegError:
        return "other"
    ends = [(0, axis.padded_length - axis.length) for axis in (plan.grid.y, plan.grid.x)]
    padded = np.pad(image, (*ends, (0, 0)), mode="reflect")
    wanted = whole(padded[None])[0, : image.shape[0], : image.shape[1]]
    off = float(np.abs(found - wanted).max() / max(1.0, float(np.abs(wanted).max())))
    return None if off <= 1e-5 else f"seed {seed}: {off:.1e} with tiles of {tile} px"


@row(
    13,
    "networks that are drawn: where the verdict is exact, tiled equals whole within 1e-5",
)
def exactness(trial: Trial) -> Iterator[Figure]:
    for what, check in (("ONNX", _onnx_fault), ("Keras", _keras_fault)):
        wanted, found, seed = trial.count(1000, 4), [], trial.seed * 100_000
        while len(found) < wanted:
            fault = check(seed, trial.folder)
            seed += 1
            if fault != "other":
                found.append(fault)
        yield good(f"{what} networks of the verdict exact", found)


def _network() -> Any:
    """Return a network that gives a turned map for a turned image: its kernels are the same on all sides."""
    from keras import Input, Model, layers  # noqa: PLC0415

    inputs = Input((None, None, 1))
    x = layers.Conv2D(3, 3, padding="same", activation="tanh")(inputs)
    model = Model(inputs, layers.Conv2D(1, 3, padding="same", activation="sigmoid")(x))
    rng = np.random.default_rng(0)
    ring = np.array([[0, 1, 0], [1, 2, 1], [0, 1, 0]])[..., None, None]
    for one in model.layers[1:]:
        shape = one.kernel.shape
        values = [rng.normal(0, 0.3, (1, 1, *shape[2:])) for _ in range(3)]
        one.kernel.assign(sum((ring == part) * value for part, value in enumerate(values)))
    return model


def _relations(model: Any, image: Any) -> dict[str, tuple[Any, Any]]:
    """Return pairs of maps that must be equal, by what was changed."""
    exact: dict[str, Any] = {"tile_size": 32, "overlap": "exact"}

    def map_of(px: Any, tiling: Any = None, **options: Any) -> Any:
        return ts.tiled_predict(model, px, tiling or exact, **options)

    whole = map_of(image)
    tiler = Tiler({"tile_size": 32, "overlap": 8})
    in_order, shuffled = (_stitched(tiler, whole, seed) for seed in (None, 1))
    wide = np.zeros((2 * image.shape[0], image.shape[1], 1), image.dtype)
    wide[::2] = image
    out = np.empty((*image.shape[:2], 1), np.float32)
    map_of(image, out=out)
    threads: list[Any] = []
    workers = [threading.Thread(target=lambda: threads.append(map_of(image))) for _ in range(2)]
    for one in workers:
        one.start()
    for one in workers:
        one.join()
    return {
        "flip up and down": (map_of(image[::-1])[::-1], whole),
        "flip left and right": (map_of(image[:, ::-1])[:, ::-1], whole),
        "turn by 90 degrees": (np.rot90(map_of(np.rot90(image)), -1), whole),
        "transpose": (map_of(image.transpose(1, 0, 2)).transpose(1, 0, 2), whole),
        "shift by the stride": (map_of(image[1:, 1:])[2:, 2:], whole[3:, 3:]),
        "order of tiles": (shuffled, in_order),
        "batch size": (map_of(image, batch_size=1), map_of(image, batch_size=7)),
        "threads": (threads[0], threads[1]),
        "dtype": (map_of(image.astype(np.float32)), whole),
        "memory layout": (map_of(wide[::2]), whole),
        "size of tiles": (map_of(image, {"tile_size": 40, "overlap": "exact"}), whole),
        "array that is given": (out, whole),
    }


def _stitched(tiler: Tiler, image: Any, seed: int | None) -> Any:
    grid = tiler.grid(image.shape)
    ids = (
        list(range(len(grid)))
        if seed is None
        else np.random.default_rng(seed).permutation(len(grid)).tolist()
    )
    stitcher = Stitcher(grid, image.shape[2])
    for batch in tiler.batches(image, 4, grid=grid, ids=ids):
        stitcher.add(batch.ids, batch.tiles)
    return stitcher.merge()


@row(
    14,
    "relations between the maps of an image and of the same image changed",
)
def relations(trial: Trial) -> Iterator[Figure]:
    model, faults = _network(), {}
    for number in range(trial.count(200, 2)):
        rng = np.random.default_rng([trial.seed, number])
        size = rng.integers(40, 90, 2)
        image = rng.integers(0, 256, (*size, 1)).astype(np.uint8)
        for what, (found, wanted) in _relations(model, image).items():
            same = found.shape == wanted.shape and np.abs(found - wanted).max() <= 1e-5
            faults.setdefault(what, []).append(None if same else f"image {number}")
    for what, found in faults.items():
        yield good(what, found)
