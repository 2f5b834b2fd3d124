"""Arguments of a wrong type: each package says what is wrong and how to fix it, before it works."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import tiledseg as ts
from tiledseg import (
    _storage,
    data,
    evaluate,
    export,
    io,
    metrics,
    models,
    objects,
    plots,
    preprocess,
    report,
    samples,
    tiling,
    train,
)
from tiledseg.config import (
    DataConfig,
    EvaluateConfig,
    PredictConfig,
    PreprocessingConfig,
    Record,
    RunConfig,
    SplitConfig,
    TileSetConfig,
    TilingConfig,
    TrainConfig,
    UNetConfig,
    import_founding,
)
from tiledseg.errors import (
    ArrayError,
    BundleError,
    FileError,
    ModelError,
    SettingError,
    StitchError,
    TiledSegError,
)
from tiledseg.tiling import AxisGrid, TileGrid, check_multiple

if TYPE_CHECKING:
    from collections.abc import Callable

    Kind = type[TilingConfig | EvaluateConfig | TrainConfig | UNetConfig | PreprocessingConfig | SplitConfig]
    Row = tuple[Callable[[], object], type[TiledSegError], str]

NAN = float("nan")
IMAGE = np.zeros((40, 50, 3), np.uint8)
MASK = np.eye(40, 50, dtype=np.uint8)
PROBS = np.zeros((40, 50, 1), np.float32)
TILING = TilingConfig(tile_size=16, overlap=4)
TILER = ts.Tiler(TILING)
GRID = TILER.grid(IMAGE.shape)
AXIS = AxisGrid(40, 16, 4)
PAIR = data.Pair("a", IMAGE, MASK)


class Sliced:
    """An image of a library that NumPy does not know."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.shape, self.dtype, self._pixels = pixels.shape, pixels.dtype, pixels

    def __getitem__(self, key: Any) -> np.ndarray:
        return self._pixels[key]


PLAN = ts.plan(lambda tiles: tiles, IMAGE)
SCORED = evaluate.EvaluationResult((evaluate.score_map(MASK, MASK),))
RECORD = {"name": "a", "image": "in/a.png", "masks": ("in/a.png",), "group": "a", "height": 40, "width": 50}
DIGEST = f"sha256:{0:064}"
RECORDS = [Record(**RECORD, foreground=0.0, digest=DIGEST, mask_digests=(DIGEST,))]
UNET = UNetConfig(input_shape=(16, 16, 3), levels=2, base_filters=2, base_kernel=3)


def net(tiles: np.ndarray) -> np.ndarray:
    return tiles[..., :1] / 255


def refused(call: Callable[[], object], error: type[TiledSegError], fix: str) -> None:
    """Check that a call raises an error whose last sentence, the fix, has a word."""
    with pytest.raises(error) as caught:
        call()
    assert type(caught.value) is error
    what, found, how = str(caught.value).partition("; got ")
    assert " must " in what or not found
    assert fix in (how if found else what)


SINKS: list[Row] = [
    (lambda: io.write_image("x.png", [[1], [2, 3]]), ArrayError, "numpy.asarray"),
    (lambda: io.create_image("x.ome.tif", ("4", 4), np.uint8), SettingError, "channels last"),
    (lambda: io.create_image("x.ome.tif", (4.5, 4), np.uint8), SettingError, "channels last"),
    (lambda: io.create_image("x.ome.tif", 4, np.uint8), SettingError, "channels last"),
    (lambda: io.create_image("x.ome.tif", (4, 4), "no dtype"), SettingError, "uint8 for masks"),
    (lambda: io.create_image("x.ome.tif", (4, 4), np.uint8, names=5), SettingError, "for each channel"),
    (lambda: io.create_image("x.ome.tif", (4, 4), np.uint8, names=[5]), SettingError, "for each channel"),
    (lambda: io.create_image("x.ome.tif", (4, 4), np.uint8, provenance=[1]), SettingError, "text by name"),
]
GRIDS: list[Row] = [
    (lambda: TileGrid(None, AXIS), SettingError, "AxisGrid(...)"),
    (lambda: TileGrid(AXIS, AXIS.origins), SettingError, "AxisGrid(...)"),
    (lambda: AxisGrid(40, 16, np.ones(3)), SettingError, "Use 0 to 15"),
    (lambda: AxisGrid(40, 10**30, None), SettingError, "Use 0 to"),
    (lambda: check_multiple(16, None), SettingError, "Use 1 or more"),
    (lambda: check_multiple(16, 0), SettingError, "Use 1 or more"),
    (lambda: tiling.axis_windows(5, "crop"), SettingError, "AxisGrid(...)"),
    (lambda: tiling.axis_windows(AXIS, None), SettingError, "Known: constant, crop"),
    (lambda: tiling.axis_windows(AXIS, np.ones(2)), SettingError, "Known: constant, crop"),
]
TILERS: list[Row] = [
    (lambda: ts.Tiler(5), SettingError, "TilingConfig(...)"),
    (lambda: TILER.grid(np.array(5)), ArrayError, "Pass image.shape"),
    (lambda: TILER.grid(np.ones((2, 2), int)), ArrayError, "Pass image.shape"),
    (lambda: TILER.grid(IMAGE.shape, 5), SettingError, "one for each axis"),
    (lambda: TILER.grid(IMAGE.shape, (1, 1, 1)), SettingError, "one for each axis"),
    (lambda: TILER.grid(IMAGE.shape, (1, None)), SettingError, "Use 1 or more"),
    (lambda: TILER.batches(IMAGE, grid=5), SettingError, "Tiler.grid"),
    (lambda: TILER.batches(IMAGE, grid=np.ones(3)), SettingError, "Tiler.grid"),
    (lambda: TILER.batches(IMAGE, ids=5), SettingError, "grid's ids"),
    (lambda: TILER.batches(IMAGE, ids="01"), SettingError, "grid's ids"),
    (lambda: TILER.read(IMAGE, (0, 16, 0, 16)), SettingError, "Box(...)"),
]
STITCHERS: list[Row] = [
    (lambda: ts.Stitcher(None, 1), SettingError, "Tiler.grid"),
    (lambda: ts.Stitcher(IMAGE, 1), SettingError, "Tiler.grid"),
    (lambda: ts.Stitcher(GRID, 10**30), SettingError, "Use 1 to 65536"),
    (
        lambda: ts.Stitcher(GRID, 1, output=np.ones(2)),
        SettingError,
        "Known: labels, mask, probabilities, uint8",
    ),
    (lambda: ts.Stitcher(GRID, 1).add(5, PROBS), StitchError, "Pass batch.ids"),
    (lambda: ts.Stitcher(GRID, 1).skip("0"), StitchError, "Pass batch.ids"),
    (lambda: tiling.labels_of(PROBS, NAN), SettingError, "0.5"),
    (lambda: tiling.labels_of(PROBS, "high"), SettingError, "0.5"),
    (lambda: tiling.labels_of(MASK), ArrayError, "numpy.newaxis"),
    (lambda: tiling.labels_of(None), ArrayError, "numpy.newaxis"),
    (lambda: tiling.touching_tiles(GRID, 5), SettingError, "Box(...)"),
    (lambda: tiling.stitch_block(None, None, {}, 1), SettingError, "Tiler.grid"),
    (lambda: tiling.Panels.of(5), SettingError, "Tiler.grid"),
]
METRICS: list[Row] = [
    (lambda: metrics.count(None, MASK), ArrayError, "numpy.asarray"),
    (lambda: metrics.count([[1], [0, 1]], MASK), ArrayError, "numpy.asarray"),
    (lambda: metrics.count_classes(MASK, MASK, None), SettingError, "Count the background"),
    (lambda: metrics.count_classes(MASK, MASK, NAN), SettingError, "Count the background"),
    (lambda: metrics.count_classes(MASK, MASK, np.ones(2)), SettingError, "Count the background"),
    (lambda: metrics.count_classes(MASK, MASK, 10**30), SettingError, "Count the background"),
    (lambda: metrics.count_probabilities("x", True), ArrayError, "numpy.asarray"),
    (lambda: metrics.average_precision([[1], [2]]), SettingError, "match_instances"),
    (lambda: metrics.panoptic_quality(None), SettingError, "match_instances"),
    (lambda: metrics.boundary_f1(MASK), SettingError, "outline_distances"),
    (lambda: metrics.hausdorff95(MASK), SettingError, "outline_distances"),
    (lambda: metrics.calibration_error(0.5), SettingError, "count_probabilities"),
    (lambda: metrics.average_precision(metrics.InstanceCounts(), IMAGE), SettingError, "Give a number"),
    (lambda: metrics.match_instances(MASK > 0, MASK), ArrayError, "metrics.components(truth > 0)"),
    (lambda: metrics.match_instances(MASK, MASK * 255), ArrayError, "metrics.components(prediction > 0)"),
    (lambda: metrics.without_small(MASK, "3"), SettingError, "Use 0 or more"),
    (lambda: metrics.Counts(1, 2, -3, 4), SettingError, "Use 0 or more"),
    (lambda: metrics.seam_ratio(PROBS.astype(float) + 1e308, [10], []), ArrayError, "numpy.nan_to_num"),
    (lambda: metrics.bootstrap_interval([0.1, 0.2], lambda _: 3), SettingError, "returns R scores"),
    (lambda: metrics.bootstrap_interval([0.1, 0.2], lambda rows: rows), SettingError, "returns R scores"),
    (lambda: metrics.bootstrap_interval([0.1, 0.2], lambda _: 1 / 0), SettingError, "division by zero"),
    (lambda: preprocess.percentiles_of(IMAGE, (99, 1)), SettingError, "(1.0, 99.0)"),
    (lambda: metrics.typical_px([[1], [2, 3]]), ArrayError, "numpy.asarray"),
    (lambda: metrics.without_small("x", 3), ArrayError, "numpy.asarray"),
    (lambda: metrics.seam_ratio(PROBS, None, [10]), SettingError, "Take the borders of the grid"),
    (lambda: metrics.seam_ratio(PROBS, [None], []), SettingError, "Take the borders of the grid"),
    (lambda: metrics.SeamTally(5, [], []), SettingError, "one for each axis"),
    (lambda: metrics.SeamErrorTally((40,), [], []), SettingError, "one for each axis"),
    (lambda: metrics.default_tolerance(("a", "b")), SettingError, "Use 0 or more"),
    (lambda: metrics.bootstrap_interval("x"), ArrayError, "numpy.asarray"),
    (lambda: metrics.bootstrap_interval([0.1, 0.2], 5), SettingError, "Pass a function"),
    (lambda: metrics.bootstrap_interval([0.1, 0.2], groups=5), SettingError, "Give one group"),
    (lambda: metrics.bootstrap_interval([0.1, 0.2], groups=[[], []]), SettingError, "Give one group"),
    (lambda: metrics.bootstrap_interval(np.ones((3, 3))), SettingError, "with `statistic`"),
    (lambda: metrics.bootstrap_interval([0.1, 0.2], resamples=10**30), SettingError, "Use 1 to 1000000"),
]
RENDER: list[Row] = [
    (lambda: plots.as_rgb(IMAGE, limits=5), SettingError, "Use (0, 4095), for example"),
    (lambda: plots.overlay(IMAGE, MASK, colours=[5]), SettingError, "Use (230, 159, 0), for example"),
    (lambda: plots.overlay(IMAGE, MASK, outline_px=None, limits="ab"), SettingError, "(0, 4095)"),
    (lambda: plots.colourise(MASK, background=None), SettingError, "Use (230, 159, 0), for example"),
    (lambda: plots.as_rgb(Sliced(IMAGE)), ArrayError, "numpy.asarray"),
    (lambda: plots.plot_labels(memoryview(MASK)), ArrayError, "Pass the labels of a Segmentation"),
    (lambda: plots.plot_labels(np.ma.masked_array(MASK)), ArrayError, "labels.filled"),
    (lambda: plots.plot_tiles(PLAN, "a.png"), ArrayError, "tiledseg.io.read_image"),
]
PREPROCESS: list[Row] = [
    (lambda: preprocess.scaled_length(None, 0.5), SettingError, "Use 1 or more"),
    (lambda: preprocess.prepare(IMAGE, None), SettingError, "PreprocessingConfig(...)"),
    (lambda: preprocess.shrunk(IMAGE, {"gama": 2.0}), SettingError, "Did you mean `gamma`"),
    (lambda: preprocess.percentiles_of(None, (1, 99)), ArrayError, "numpy.asarray"),
    (lambda: preprocess.percentiles_of(PROBS, (1, 99)), ArrayError, "Convert it to integers"),
    (lambda: preprocess.percentiles_of(IMAGE, 5), SettingError, "Give (1.0, 99.0)"),
    (lambda: preprocess.percentiles_of(IMAGE, (1, NAN)), SettingError, "Give (1.0, 99.0)"),
    (lambda: preprocess.percentiles_of(IMAGE, (1, 101)), SettingError, "Give (1.0, 99.0)"),
]
FILES: list[Row] = [
    (lambda: io.find_images(None), FileError, "Pass str or pathlib.Path"),
    (lambda: io.find_images(b"a.png"), FileError, "Pass str or pathlib.Path"),
    (lambda: io.find_images(["a.png", 5]), FileError, "Pass a str or a pathlib.Path"),
    (lambda: io.find_images(np.array(5)), FileError, "Pass str or pathlib.Path"),
    (lambda: io.read_image("a.png", alpha=["drop"]), SettingError, "Did you mean `drop`"),
    (lambda: io.read_mask("a.png", palette=np.ones(2)), SettingError, "Known: colour, index, refuse"),
    (lambda: _storage.check_writable(None), FileError, "Pass a str or a pathlib.Path"),
    (lambda: samples.write_samples(5), FileError, "Pass a str or a pathlib.Path"),
    (lambda: samples.smear(64.0), SettingError, "Use 64 or more"),
    (lambda: samples.smear(64, 64, cell_px=5), SettingError, "Use (250, 400)"),
    (lambda: samples.smear(64, 64, cell_px=("a", "b")), SettingError, "Use (250, 400)"),
    (lambda: samples.smear(64, 64, n_cells=10**6), SettingError, "Use 0 to 10000"),
    (lambda: import_founding(None), SettingError, "text of the file"),
]
DATA: list[Row] = [
    (lambda: data.pairs_of(None), SettingError, "DataConfig(...)"),
    (lambda: data.survey({"image": "a"}), SettingError, "Did you mean `images`"),
    (lambda: data.as_pairs(np.array(5), "train"), SettingError, "find_pairs"),
    (lambda: data.as_pairs([data.Pair("a", None, MASK)], "train"), SettingError, "numpy.asarray"),
    (lambda: data.check_apart([PAIR], 5), SettingError, "find_pairs"),
    (lambda: data.describe(None, "."), SettingError, "find_pairs"),
    (lambda: data.describe([PAIR], None), FileError, "Pass a str or a pathlib.Path"),
    (lambda: data.load_pair(None), SettingError, "Give each an array or a path"),
    (lambda: data.split_records(None, SplitConfig()), SettingError, "tiledseg.data.describe"),
    (lambda: data.split_records([RECORD], SplitConfig()), SettingError, "tiledseg.data.describe"),
    (lambda: data.split_records([], 5), SettingError, "SplitConfig(...)"),
    (lambda: data.statistics_of([]), SettingError, "tiledseg.data.describe"),
    (lambda: data.statistics_of([5]), SettingError, "tiledseg.data.describe"),
    (lambda: data.check_disjoint("ab"), SettingError, "tiledseg.data.describe"),
    (lambda: data.write_manifest("m.jsonl", None), SettingError, "tiledseg.data.describe"),
    (lambda: data.Manifest.read(None), FileError, "Pass a str or a pathlib.Path"),
    (lambda: data.write_tiles("m.jsonl", TileSetConfig()), SettingError, "Manifest.read"),
    (lambda: data.write_tiles(data.Manifest(Path(), ()), None), SettingError, "TileSetConfig(...)"),
    (lambda: data.prepare_pairs([PAIR], None), SettingError, "PreprocessingConfig(...)"),
    (lambda: data.prepare_pair(5, PreprocessingConfig()), SettingError, "Give each an array or a path"),
    (lambda: data.CropSampler([PAIR], (16, 16)), SettingError, "prepare_pairs"),
    (lambda: data.GridCrops([], (16, 16)), SettingError, "prepare_pairs"),
    (lambda: data.crops_to_cover([], 16), SettingError, "prepare_pairs"),
    (lambda: data.check_mask(None, IMAGE.shape, 1), ArrayError, "numpy.asarray"),
    (lambda: data.check_mask(MASK, None, 1), ArrayError, "Pass image.shape"),
    (lambda: data.check_mask(MASK, IMAGE.shape, NAN), SettingError, "Use 1 or more"),
    (lambda: data.check_mask(MASK, IMAGE.shape, 0), SettingError, "Use 1 or more"),
    (lambda: data.check_mask(np.full_like(MASK, 7), IMAGE.shape, 1), ArrayError, "class_values=(7,) to"),
    (lambda: data.check_mask(np.full_like(MASK, 2), IMAGE.shape, 2), ArrayError, "set classes=2 of the"),
    (lambda: data.as_pairs((IMAGE, MASK), "pairs"), SettingError, "list(zip(images, masks)) makes pairs"),
    (lambda: ts.Trainer().fit([(IMAGE, MASK)] * 3), SettingError, "fit(pairs[:-2], pairs[-2:])"),
    (lambda: TrainConfig(lr=1), SettingError, "Did you mean `learning_rate`"),  # type: ignore[call-arg]
    (lambda: TrainConfig(levels=1), SettingError, "`network` has it"),  # type: ignore[call-arg]
    (lambda: RunConfig(tiling={}), SettingError, "or predict.tiling."),  # type: ignore[call-arg]
    (lambda: ts.tiled_predict(np.asarray, IMAGE, out="a.zarr"), ArrayError, "tiledseg.io.create_image"),  # type: ignore[arg-type]
    (lambda: TrainConfig(network=5), SettingError, 'Give its name, as in "unet"'),  # type: ignore[arg-type]
    (lambda: preprocess.prepare(IMAGE / 255, PreprocessingConfig()), ArrayError, "(image * 255).round()"),
]
PREDICT: list[Row] = [
    (lambda: ts.tiled_predict(lambda tiles: tiles[0], IMAGE, TILING), ModelError, "numpy.stack([function"),
    (lambda: ts.tiled_predict(net, IMAGE, TILING, threshold=0.3), SettingError, "changed(threshold=0.3)"),
    (lambda: ts.tiled_predict(net, IMAGE, TILING, level=1), SettingError, "open_image(image, level=1)"),
    (lambda: ts.tiled_predict(net, IMAGE, TILING, callback=5), SettingError, "Pass a function"),
    (lambda: ts.tiled_predict(net, IMAGE, TILING, tta=np.ones(2)), SettingError, "Known: d4, flips"),
    (lambda: ts.plan(net, 5, TILING), ArrayError, "Pass image.shape"),
    (lambda: ts.predict_files(net, "in", None), FileError, "Pass a str or a pathlib.Path"),
    (lambda: ts.predict_files(net, "in", "out", tiling=16), SettingError, "TilingConfig(...)"),
    (lambda: ts.predict_files(net, "in", "out", client=5), SettingError, "distributed.Client"),
    (lambda: ts.predict_files("demo", "in", "out"), ModelError, "tiledseg.load_model"),
]
EVALUATE: list[Row] = [
    (lambda: ts.Evaluator(5), SettingError, "EvaluateConfig(...)"),
    (lambda: ts.Evaluator().evaluate(net, [PAIR], callback=5), SettingError, "Pass a function"),
    (lambda: ts.Evaluator().evaluate(net, 5), SettingError, "find_pairs"),
    (lambda: ts.Evaluator().score_maps(5, [PAIR]), SettingError, "find_maps"),
    (lambda: ts.Evaluator().score_maps("a", [PAIR]), SettingError, "find_maps"),
    (lambda: ts.Evaluator().score_maps([PROBS], [PAIR], tile_px=5), SettingError, "one for each axis"),
    (lambda: ts.Evaluator().score_maps([PROBS], [PAIR], classes=None), SettingError, "Use 1 or more"),
    (lambda: ts.Evaluator().score_maps([PROBS], [PAIR], callback=[]), SettingError, "Pass a function"),
    (lambda: evaluate.score_map(None, MASK), ArrayError, "numpy.asarray"),
    (lambda: evaluate.score_map(PROBS, MASK, threshold=NAN), SettingError, "0.5"),
    (lambda: evaluate.score_map(PROBS, MASK, classes=0), SettingError, "Use 1 or more"),
    (lambda: evaluate.score_map(PROBS, MASK, borders=5), SettingError, "grid.y.borders"),
    (lambda: evaluate.score_map(PROBS, MASK, borders=([], [], [])), SettingError, "grid.y.borders"),
    (lambda: evaluate.score_map(PROBS, MASK, borders=(5, [])), SettingError, "grid.y.borders"),
    (lambda: evaluate.score_map(PROBS[:0], MASK[:0]), ArrayError, "Check how it was read"),
    (lambda: evaluate.score_map(MASK, MASK, ignore_label=1), SettingError, "Use 255"),
    (lambda: evaluate.score_map(np.dstack([PROBS] * 3), MASK, threshold=0.7), SettingError, "most probable"),
    (lambda: evaluate.score_map(PROBS, MASK, name=3), SettingError, "Name the image"),
    (lambda: evaluate.score_map(PROBS, MASK, seconds="1"), SettingError, "Give a number"),
    (lambda: evaluate.score_map(PROBS, MASK, cell_px=1.5), SettingError, "Use 1 or more"),
    (lambda: evaluate.score_map(PROBS, MASK, cells=MASK > 0), ArrayError, "or leave it out"),
    (
        lambda: evaluate.score_map(PROBS, MASK, cells=np.eye(40, 50, 5, int)),
        ArrayError,
        "none of 1. Give both",
    ),
    (lambda: objects.label_objects(np.zeros((5, 64, 70))), ArrayError, "numpy.moveaxis(map, 0, -1)"),
    (lambda: export.write_coco("a.json", [("a", MASK)], names=("a", "a")), SettingError, "each class once"),
    (lambda: export.write_geojson("a.geojson", np.ndarray), ArrayError, "numpy.asarray"),
    (lambda: io.write_probs("a.tif", np.zeros((1, 40, 50))), ArrayError, "numpy.moveaxis(probs, 0, -1)"),
    (lambda: evaluate.score_map(PROBS, MASK, cells=5), ArrayError, "number for each cell"),
    (lambda: evaluate.score_map(PROBS, MASK, cells=np.full(MASK.shape, "a")), ArrayError, "numpy.asarray"),
    (lambda: evaluate.find_maps(".", None), SettingError, "find_pairs"),
    (lambda: evaluate.read_map(None), FileError, "Pass a str or a pathlib.Path"),
    (lambda: evaluate.compare(SCORED, None), SettingError, "Evaluator.evaluate"),
    (lambda: evaluate.compare(SCORED, SCORED, names=5), SettingError, '("first", "second")'),
    (lambda: evaluate.compare(SCORED, SCORED, names=("a",)), SettingError, '("first", "second")'),
]
REPORT: list[Row] = [
    (lambda: report.write_report("r.html", title="t", result=5), SettingError, "Evaluator.evaluate"),
    (lambda: report.write_report("r", title="t", result=SCORED, pictures=5), SettingError, "WorstCases"),
    (lambda: report.write_report("r", title="t", result=SCORED, pictures=[5]), SettingError, "WorstCases"),
    (lambda: report.write_report("r", title="t", result=SCORED, comparison=5), SettingError, "compare"),
    (lambda: report.write_report("r", title="t", result=SCORED, facts=5), SettingError, "Pass a dict"),
    (lambda: report.write_evaluation("r", title="t", result=None), SettingError, "Evaluator.evaluate"),
    (lambda: report.WorstCases(limits=5), SettingError, "Use (0, 4095), for example"),
    (lambda: report.WorstCases()(5), SettingError, "Evaluator.evaluate"),
    (lambda: report.picture_row(5), SettingError, "Evaluator.evaluate"),
    (lambda: report.mask_row("a", "", None, MASK, thumb_px=9), ArrayError, "numpy.asarray"),
    (lambda: report.mask_row("a", "", IMAGE, MASK[1:], thumb_px=9), ArrayError, "one label for each px"),
    (lambda: report.contact_sheet("a", 5), SettingError, "mask_row"),
    (lambda: export.write_geojson("x", None), ArrayError, "numpy.asarray"),
    (lambda: export.write_geojson("x", MASK, names=5), SettingError, "Pass str"),
    (lambda: export.write_geojson("x", MASK, names=[5]), SettingError, "Pass str"),
    (lambda: export.write_geojson("x", MASK, image=5), SettingError, "Pass the name of the image"),
    (lambda: export.write_coco("x", 5), SettingError, '("a.png", labels)'),
    (lambda: export.write_coco("x", [("a.png",)]), SettingError, '("a.png", labels)'),
    (lambda: report.write_split_chart("x", None, []), SettingError, "statistics_of"),
]
MODELS: list[Row] = [
    (lambda: ts.UNetBuilder(None), SettingError, "UNetConfig(...)"),
    (lambda: ts.UNetBuilder({"level": 2}), SettingError, "Did you mean `levels`"),
    (lambda: ts.load_model(None), BundleError, "Pass a str or a pathlib.Path"),
    (lambda: ts.load_model(5), BundleError, "Pass a str or a pathlib.Path"),
    (lambda: ts.load_model(np.ones(3)), BundleError, "Pass a str or a pathlib.Path"),
    (lambda: models.BundleReference.of(None), BundleError, "Pass a str or a pathlib.Path"),
    (lambda: segmenter().save(None), FileError, "Pass a str or a pathlib.Path"),
    (lambda: segmenter().save(5), FileError, "Pass a str or a pathlib.Path"),
    (lambda: segmenter().changed(tta=["flips"]), SettingError, "Did you mean `flips`"),
    (lambda: models.build_loss(5), SettingError, "Known: basnet"),
    (lambda: models.build_loss("dice", 5), SettingError, "Give one per class"),
    (lambda: models.build_loss("dice", "12"), SettingError, "Give one per class"),
    (lambda: models.build_loss("dice", [1, NAN]), SettingError, "Give one per class"),
    (lambda: models.build_loss("dice", [0, 0]), SettingError, "Give one per class"),
    (lambda: models.training_network(5, UNET), SettingError, "build_model"),
    (lambda: models.SegmentationLoss(5), SettingError, "Known: basnet"),
]
TRAIN: list[Row] = [
    (lambda: ts.Trainer(5), SettingError, "TrainConfig(...)"),
    (lambda: fit(callbacks=5), SettingError, "keras.callbacks.Callback"),
    (lambda: fit(callbacks=None), SettingError, "keras.callbacks.Callback"),
    (lambda: fit(callbacks=[5]), SettingError, "keras.callbacks.Callback"),
    (lambda: fit(settings=5), SettingError, "RunConfig(...)"),
    (lambda: fit(valid=5), SettingError, "find_pairs"),
    (lambda: fit(config={"devices": 99, "batch_size": 99}), SettingError, "There are"),
    (lambda: ts.Trainer.resume(None), FileError, "Pass a str or a pathlib.Path"),
    (lambda: ts.Trainer.resume(5), FileError, "Pass a str or a pathlib.Path"),
    (lambda: train.latest_checkpoint(None), FileError, "Pass a str or a pathlib.Path"),
    (lambda: train.find_learning_rate(TrainConfig(), [PAIR], steps=10**30), SettingError, "Use 10 to"),
    (lambda: train.overfit_one_batch(TrainConfig(), 5), SettingError, "find_pairs"),
]


FOUR = [
    Record(
        name=f"{number}.png", image=f"{number}.png", masks=(f"m/{number}.png",), group=str(number),
        height=9, width=9, foreground=0.5, digest=f"sha256:{number:064x}", mask_digests=(f"sha256:{9:064x}",),
    )
    for number in range(4)
]  # fmt: skip
TINY = {"levels": 2, "base_filters": 2, "base_kernel": 3}
AS_DICT: dict[str, tuple[Callable[[Any], object], Kind, dict[str, Any], dict[str, Any]]] = {
    "Tiler": (lambda given: ts.Tiler(given).config, TilingConfig, {"tile_size": 64}, {"overlp": 1}),
    "plan": (
        lambda given: str(ts.plan(net, (100, 90, 3), given)), TilingConfig, {"tile_size": 64}, {"overlp": 1},
    ),
    "tiled_predict": (
        lambda given: ts.tiled_predict(net, IMAGE, given).tobytes(), TilingConfig, {"tile_size": 16},
        {"overlap": -1},
    ),
    "Evaluator": (lambda given: ts.Evaluator(given).config, EvaluateConfig, {"cell_px": 3}, {"cel_px": 1}),
    "Trainer": (lambda given: ts.Trainer(given).config, TrainConfig, {"epochs": 3}, {"epoch": 3}),
    "UNetBuilder": (lambda given: ts.UNetBuilder(given).config, UNetConfig, TINY, {"level": 3}),
    "prepare": (
        lambda given: np.asarray(preprocess.prepare(IMAGE, given)).tobytes(), PreprocessingConfig,
        {"gamma": 2.0}, {"gama": 2.0},
    ),
    "split_records": (
        lambda given: data.split_records(FOUR, given), SplitConfig,
        {"names": ("a", "b"), "shares": (1, 1)}, {"names": ()},
    ),
    "Segmenter": (
        lambda given: segmenter().changed(tiling=given).tiling, TilingConfig, {"tile_size": 16},
        {"overlp": 1},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", AS_DICT)
def test_settings_may_be_a_dict(name: str) -> None:
    call, kind, good, wrong = AS_DICT[name]
    assert call(good) == call(kind(**good))
    with pytest.raises(SettingError, match=r"^`(config|tiling)`: .*"):
        call(wrong)
    with pytest.raises(SettingError, match=kind.__name__):
        call({1: 2})


def test_a_survey_and_tiles_take_a_dict(tmp_path: Path) -> None:
    samples.write_samples(tmp_path, n_images=1, height=64, width=64)
    folders = {"images": str(tmp_path / "images"), "masks": str(tmp_path / "masks")}
    found = data.survey(folders)
    assert repr(found) == repr(data.survey(DataConfig(**folders)))
    manifest = data.Manifest(tmp_path, tuple(data.describe(found.pairs, tmp_path)))
    tiles = data.write_tiles(manifest, {"tile_size": 32, "output": str(tmp_path / "tiles")})
    assert sum(tiles.tiles.values()) == 4


def segmenter() -> ts.Segmenter:
    return ts.Segmenter(ts.UNetBuilder(UNET).build(blank=True), UNET, ("cell",))


def fit(config: dict[str, object] | None = None, valid: object = None, **options: object) -> object:
    settings = TrainConfig(
        network=UNET, crop_size=16, curves=False, **({"runs_dir": "runs"} | (config or {}))
    )
    other = [(IMAGE + 1, MASK)] if valid is None else valid
    return ts.Trainer(settings).fit([PAIR], other, progress=False, **options)


ROWS = {
    "grid": GRIDS,
    "tiler": TILERS,
    "stitcher": STITCHERS,
    "metrics": METRICS,
    "plots": RENDER,
    "preprocess": PREPROCESS,
    "io": FILES,
    "sinks": SINKS,
    "data": DATA,
    "predict": PREDICT,
    "evaluate": EVALUATE,
    "report": REPORT,
    "models": MODELS,
    "train": TRAIN,
}


@pytest.mark.parametrize(
    ("call", "error", "fix"),
    [
        pytest.param(*row, id=f"{package}-{place}")
        for package, rows in ROWS.items()
        for place, row in enumerate(rows)
    ],
)
def test_a_wrong_argument_is_named_and_leaves_nothing_behind(
    call: Callable[[], object],
    error: type[TiledSegError],
    fix: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "in").mkdir()
    io.write_image(tmp_path / "in" / "a.png", IMAGE)
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    refused(call, error, fix)
    assert sorted(tmp_path.rglob("*")) == before


def zarr_folder() -> str:
    Path("a.zarr").mkdir()
    Path("a.zarr", "zarr.json").write_text("{}")
    return "a.zarr"


EXTRAS = [
    ("zarr", lambda: io.open_image(zarr_folder()), "zarr"),
    ("zarr", lambda: io.create_image("b.ome.zarr", (40, 50, 1), "float32").__enter__(), "zarr"),
    (
        "zarr",
        lambda: ts.predict_files(net, "in", "out", PredictConfig(mask_format="ome-zarr")),
        "zarr",
    ),
    ("distributed", lambda: ts.predict_files(net, "in", "out", client=5), "dask"),
    ("matplotlib", lambda: report.write_split_chart("x", data.statistics_of(RECORDS), RECORDS), "plot"),
    ("tensorboard", lambda: fit(config={"tensorboard": True}), "tensorboard"),
    ("pandas", lambda: objects.label_objects(np.ones((2, 2), bool)).to_pandas(), "table"),
]


@pytest.mark.parametrize(("library", "call", "extra"), EXTRAS)
def test_a_missing_library_is_named_with_the_command_that_installs_it(
    library: str,
    call: Callable[[], object],
    extra: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in [library, *(name for name in sys.modules if name.startswith(f"{library}."))]:
        monkeypatch.setitem(sys.modules, name, None)
    (tmp_path / "in").mkdir()
    io.write_image(tmp_path / "in" / "a.png", IMAGE)
    monkeypatch.chdir(tmp_path)
    refused(call, SettingError, f'pip install "tiledseg[{extra}]"')
    assert not {path.name for path in tmp_path.iterdir()} & {"out", "runs", "x", "b.ome.zarr"}


OUTPUTS = [
    lambda place: ts.predict_files(net, "in", place),
    lambda place: data.write_manifest(place / "m.jsonl", RECORDS),
    lambda place: data.write_tiles(data.Manifest(Path(), tuple(RECORDS)), TileSetConfig(output=str(place))),
    lambda place: report.write_report(place / "r.html", title="t", result=SCORED),
    lambda place: report.write_evaluation(place, title="t", result=SCORED),
    lambda place: export.write_geojson(place / "x.geojson", MASK),
    lambda place: SCORED.to_csv(place / "x.csv"),
    lambda place: samples.write_samples(place, n_images=1, height=64, width=64),
    lambda place: io.create_image(place / "x.npy", (40, 50, 1), "float32").__enter__(),
    lambda place: io.write_mask(place / "x.png", MASK),
    lambda place: segmenter().save(place),
    lambda place: fit(config={"runs_dir": str(place)}),
]


@pytest.mark.parametrize("write", OUTPUTS)
def test_an_output_that_cannot_be_written_is_named(
    write: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    io.write_image(tmp_path / "in" / "a.png", IMAGE)
    (tmp_path / "file").write_text("mine")
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(FileError, match=r"`.*file.*` must .*; got .*\. \w"):
        write(tmp_path / "file" / "below")
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "file").read_text() == "mine"


class OnGpu:
    """An array as those of CuPy, which NumPy may not convert."""

    def __init__(self, values: np.ndarray) -> None:
        self.shape, self.dtype, self.ndim, self._values = values.shape, values.dtype, values.ndim, values

    def __getitem__(self, key: Any) -> OnGpu:
        return OnGpu(self._values[key])

    def __array__(self, *_: object, **__: object) -> np.ndarray:
        raise TypeError("implicit conversion is not allowed")


@pytest.mark.parametrize(
    "call",
    [
        lambda one: ts.open_image(one)[:, :],
        lambda one: ts.tiled_predict(lambda tiles: tiles[..., :1], IMAGE, TILING, roi=one),
        lambda one: ts.tiled_predict(lambda tiles: tiles[..., :1], one, TILING),
        plots.plot_labels,
        plots.as_rgb,
        lambda one: ts.Stitcher(GRID, 1).add([0], one),
        objects.label_objects,
        lambda one: metrics.count(one, MASK),
    ],
)
def test_an_array_that_numpy_may_not_convert_is_told(call: Callable[[Any], object]) -> None:
    with pytest.raises(TiledSegError, match=r"(numpy\.asarray|NumPy array|Correct the source)"):
        call(OnGpu(MASK))


def test_a_source_that_cannot_say_its_shape_is_named() -> None:
    class Source:
        dtype = np.dtype(np.uint8)

        @property
        def shape(self) -> tuple[int, ...]:
            raise OSError("the disk is gone")

        def __getitem__(self, box: object) -> np.ndarray:
            raise NotImplementedError

    with pytest.raises(ArrayError, match="`image` does not say its shape and dtype: the disk is gone"):
        ts.tiled_predict(lambda tiles: tiles[..., :1], Source())


class Broken:
    """An object whose every conversion raises an error of its own."""

    def _fail(self, *arguments):
        raise RuntimeError("broken")

    __repr__ = __str__ = __iter__ = __fspath__ = __array__ = __len__ = __eq__ = _fail
    __hash__ = None


@pytest.mark.parametrize(
    "call",
    [
        io.read_image,
        lambda one: ts.TilingConfig(tile_size=one),
        lambda one: ts.ObjectsConfig(split=one),
        lambda one: ts.UNetConfig(activation=one),
        lambda one: metrics.count(one, np.ones((3, 3))),
        lambda one: ts.TileGrid(one, one, one),
        plots.plot_history,
        lambda one: plots.plot_history({"epoch": [1], "loss": [1]}, ("loss",), ax=one),
        plots.plot_thresholds,
        plots.plot_calibration,
        lambda one: plots.plot_worst([], one),
        plots.plot_histogram,
        plots.plot_tiles,
        plots.plot_seams,
        lambda one: objects.ObjectsSink((3, 3), one),
        objects.ObjectsSink,
        lambda one: objects.label_objects(np.ones((3, 3, 1), np.float32), out=one),
        lambda one: io.write_labels(one, "cells", np.ones((3, 3), int)),
        lambda one: io.write_labels("a.ome.zarr", one, np.ones((3, 3), int)),
        lambda one: io.read_image("a.png", level=one),
        lambda one: io.read_image("a.png", at=one),
        lambda one: evaluate.score_map(np.ones((3, 3)), np.ones((3, 3), int), ignore_label=one),
    ],
)
@pytest.mark.parametrize("value", [Broken(), b"a.png"], ids=["broken", "bytes"])
def test_no_argument_ends_in_a_bare_error(call, value):
    with pytest.raises(ts.TiledSegError, match=r"must .*; got|does not exist"):
        call(value)
