"""Stitcher: completeness, streaming, outputs, sinks."""

import threading

import numpy as np
import pytest

from tiledseg import Stitcher, TileGrid, Tiler, TilingConfig
from tiledseg.errors import ArrayError, SettingError, StitchError, TiledSegError
from tiledseg.tiling import AxisGrid, Box, check_threshold, labels_of, stitch_block, touching_tiles


def tiles_of(probs, **settings):
    tiler = Tiler(TilingConfig(**({"tile_size": 8, "overlap": 4} | settings)))
    return tiler.grid(probs.shape), list(tiler.batches(probs, 3))


def probs(height=30, width=21, channels=1, seed=0):
    return np.random.default_rng(seed).random((height, width, channels), np.float32)


def merged(image, out=None, **options):
    grid, batches = tiles_of(image)
    stitcher = Stitcher(grid, image.shape[2], out, **options)
    for batch in batches:
        stitcher.add(batch.ids, batch.tiles)
    return stitcher.merge()


def test_a_missing_tile_is_named():
    grid, batches = tiles_of(probs())
    stitcher = Stitcher(grid, 1)
    for batch in batches[1:]:
        stitcher.add(batch.ids, batch.tiles)
    with pytest.raises(StitchError, match=r"3 of \d+ tiles.*the first with id 0 at \(y, x\) = \(0, 0\)"):
        stitcher.merge()


def test_a_repeated_tile_is_an_error_and_changes_nothing():
    image = probs()
    grid, batches = tiles_of(image)
    stitcher = Stitcher(grid, 1)
    stitcher.add(batches[0].ids, batches[0].tiles)
    with pytest.raises(StitchError, match=r"`ids`.*got tile 2 a second time"):
        stitcher.add([4, 2], batches[0].tiles[:2])
    with pytest.raises(StitchError, match=r"`ids`.*got tile 4 a second time"):
        stitcher.add([4, 4], batches[0].tiles[:2])
    for batch in batches[1:]:
        stitcher.add(batch.ids, batch.tiles)
    np.testing.assert_allclose(stitcher.merge(), image, rtol=1e-6)


@pytest.mark.parametrize("tile_id", [-1, 10_000, 0.5, "0", True])
def test_an_unknown_tile_is_an_error(tile_id):
    grid, batches = tiles_of(probs())
    with pytest.raises(TiledSegError, match=r"`ids` must be "):
        Stitcher(grid, 1).add([tile_id], batches[0].tiles[:1])


def test_a_sink_has_a_shape_a_dtype_and_slice_assignment():
    image = probs()
    for lacking in ("shape", "dtype"):
        facts = {"shape": image.shape, "dtype": image.dtype}
        del facts[lacking]
        with pytest.raises(ArrayError, match="`out` must be an array with shape, dtype and slice assignment"):
            merged(image, type("Sink", (), {**facts, "__setitem__": None})())
    with pytest.raises(ArrayError, match="slice assignment"):
        merged(image, type("Sink", (), {"shape": image.shape, "dtype": image.dtype})())


def test_the_first_id_behind_the_grid_is_unknown():
    grid, batches = tiles_of(probs())
    with pytest.raises(StitchError, match=rf"in \[0, {len(grid)}\); got {len(grid)}"):
        Stitcher(grid, 1).add([len(grid)], batches[0].tiles[:1])


@pytest.mark.parametrize("blend", ["constant", "linear", "crop"])
def test_a_tile_touches_a_block_where_it_has_weight_in_it(blend):
    grid = Tiler(TilingConfig(tile_size=8, overlap=4, blend=blend)).grid((22, 19))
    ones = np.ones((8, 8, 1), np.float32)
    for place in range(0, 18, 2):
        y, x = place + 2, place
        box = Box(y, y + 2, x, x + 1)
        alone = [stitch_block(grid, box, {one: ones}, 1).any() for one in range(len(grid))]
        assert touching_tiles(grid, box) == np.flatnonzero(alone).tolist()


def test_labels_of_two_classes_are_cut_at_the_threshold_of_the_second():
    two = np.array([[[0.7, 0.3], [0.4, 0.6], [0.75, 0.25]]], np.float32)
    assert labels_of(two, 0.3).tolist() == [[1, 1, 0]]
    assert labels_of(two).tolist() == [[0, 1, 0]]


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e39])
def test_refused_outputs_change_nothing(bad):
    image = probs()
    grid, batches = tiles_of(image)
    stitcher = Stitcher(grid, 1)
    wrong = batches[0].tiles.astype(np.float64)
    wrong[1, 3, 3] = bad
    with pytest.raises(StitchError, match="1 NaN or infinite values in tile 1"):
        stitcher.add(batches[0].ids, wrong)
    for batch in batches:
        stitcher.add(batch.ids, batch.tiles)
    np.testing.assert_allclose(stitcher.merge(), image, rtol=1e-6)


@pytest.mark.parametrize("kind", [complex, str, object])
def test_outputs_that_are_not_real_numbers_are_refused(kind):
    grid, batches = tiles_of(probs())
    with pytest.raises(StitchError, match="boolean, integer or real"):
        Stitcher(grid, 1).add(batches[0].ids, batches[0].tiles.astype(kind))


@pytest.mark.parametrize("shape", [(2, 8, 8, 1), (1, 8, 7, 1), (1, 8, 8, 2), (8, 8, 1)])
def test_outputs_of_the_wrong_shape_are_an_error(shape):
    grid, _ = tiles_of(probs())
    with pytest.raises(StitchError, match=r"\(N, h, w, K\) = \(1, 8, 8, 1\)"):
        Stitcher(grid, 1).add([0], np.zeros(shape))


def test_finished_rows_are_written_at_once_and_in_order():
    class Recorder:
        shape, dtype, rows = (30, 21, 1), np.dtype("float32"), []

        def __setitem__(self, key, value):
            self.rows.append((key.start, key.stop, value.copy()))

    image, sink = probs(), Recorder()
    grid, batches = tiles_of(image)
    stitcher = Stitcher(grid, 1, sink)
    seen = []
    for batch in batches:
        stitcher.add(batch.ids, batch.tiles)
        seen.append(stitcher.finished_rows)
    assert seen[0] == 0
    assert seen[-1] == 30
    assert len(sink.rows) == len(grid.y.origins)
    assert [start for start, _, _ in sink.rows] == [0, *(stop for _, stop, _ in sink.rows[:-1])]
    np.testing.assert_allclose(np.concatenate([rows for _, _, rows in sink.rows]), image, rtol=1e-6)


def test_a_streamed_memmap_equals_the_map_in_memory(tmp_path):
    image = probs(channels=2)
    out = np.lib.format.open_memmap(tmp_path / "out.npy", "w+", np.float32, image.shape)
    assert merged(image, out) is out
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), merged(image))


def test_several_threads_can_add():
    image = probs(60, 50)
    grid, batches = tiles_of(image)
    stitcher = Stitcher(grid, 1)
    threads = [
        threading.Thread(target=lambda part=batches[place::4]: [stitcher.add(b.ids, b.tiles) for b in part])
        for place in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_allclose(stitcher.merge(), image, rtol=1e-6)


def test_flipped_tiles_on_a_mirrored_grid_give_the_flipped_map():
    image = probs(40, 32)
    flipped = np.ascontiguousarray(image[::-1, ::-1])
    for blend in ("constant", "linear", "hann", "gaussian"):
        tiler = Tiler(TilingConfig(tile_size=8, overlap=4, blend=blend))
        noisy = []  # each tile adds its own number, so that the result depends on its weights
        for this in (image, flipped):
            grid = tiler.grid(this.shape)
            stitcher = Stitcher(grid, 1)
            for batch in tiler.batches(this, 1):
                number = int(batch.ids[0]) if this is image else len(grid) - 1 - int(batch.ids[0])
                stitcher.add(batch.ids, batch.tiles + number)
            noisy.append(stitcher.merge())
        np.testing.assert_allclose(noisy[1], noisy[0][::-1, ::-1], rtol=1e-5)


@pytest.mark.parametrize("output", ["mask", "labels"])
def test_the_output_decides_what_a_map_holds(output):
    one, three = probs(), probs(channels=3)
    mask = merged(one, output=output, threshold=0.25)
    assert mask.dtype == np.uint8
    assert mask.shape == one.shape[:2]
    np.testing.assert_array_equal(mask, merged(one)[..., 0] >= np.float32(0.25))
    labels = merged(three, output=output)
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, merged(three).argmax(axis=-1))
    np.testing.assert_array_equal(merged(three, output="uint8"), np.rint(merged(three) * 255))


def test_many_labels_take_two_bytes():
    grid = TileGrid(AxisGrid(4, 4), AxisGrid(5, 5))
    assert Stitcher(grid, 256, output="labels").out.dtype == np.uint8
    assert Stitcher(grid, 300, output="labels").out.dtype == np.uint16


def test_one_channel_can_be_written_into_a_2d_array():
    out = np.zeros((30, 21), np.float32)
    merged(probs(), out)
    np.testing.assert_allclose(out, probs()[..., 0], rtol=1e-6)


@pytest.mark.parametrize(
    ("out", "options", "message"),
    [
        (np.zeros((30, 20, 1)), {}, r"`out` must have shape \(30, 21, 1\)"),
        (np.zeros((30, 21, 1), np.uint8), {}, "hold probabilities; got uint8"),
        (np.zeros((30, 21, 1), np.int8), {"output": "uint8"}, "hold uint8 values; got int8"),
        (np.zeros((30, 21, 1), object), {}, "hold probabilities; got object"),
        (np.broadcast_to(np.float32(0), (30, 21, 1)), {}, "writable"),
        ("out.npy", {}, "slice assignment; got str"),
    ],
)
def test_a_sink_that_cannot_hold_the_map_is_refused(out, options, message):
    with pytest.raises(ArrayError, match=message):
        merged(probs(), out, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output": "median"}, "one of probabilities, mask, labels, uint8"),
        ({"output": "mask", "threshold": 1.0}, r"`threshold` must be in \(0, 1\)"),
        ({"output": "mask", "threshold": float("nan")}, "`threshold` must be a finite number"),
        ({"output": "mask", "threshold": "0.5"}, "`threshold` must be a finite number"),
    ],
)
def test_invalid_options_are_refused(options, message):
    with pytest.raises(SettingError, match=message):
        merged(probs(), **options)


def test_outputs_outside_0_to_1_cannot_be_stored_as_uint8():
    with pytest.raises(ArrayError, match=r"in \[0, 1\] to be stored as uint8"):
        merged(probs() * 3, output="uint8")


def test_skipped_tiles_count_as_their_fill_value():
    grid = TileGrid(AxisGrid(20, 8, 4), AxisGrid(20, 8, 4), "gaussian")
    stitcher = Stitcher(grid, 2)
    stitcher.skip(range(len(grid)), fill_value=0.25)
    np.testing.assert_allclose(stitcher.merge(), np.full((20, 20, 2), 0.25), rtol=1e-6)
    empty = Stitcher(grid, 2)
    empty.skip(reversed(range(len(grid))))
    assert not empty.merge().any()
    with pytest.raises(SettingError, match="`fill_value` must be a finite number"):
        Stitcher(grid, 1).skip([0], float("nan"))


@pytest.mark.parametrize("width", [1, 2, 64])
@pytest.mark.parametrize("channels", [1, 3])
def test_broadcast_outputs_are_read_within_their_bounds(width, channels):
    shape = (128, width)
    grid = Tiler(TilingConfig(tile_size=(64, width), overlap=0)).grid(shape)
    skipped, added = Stitcher(grid, channels), Stitcher(grid, channels)
    skipped.skip(range(len(grid)), fill_value=0.75)
    added.add(range(len(grid)), np.broadcast_to(np.float32(0.75), (len(grid), 64, width, channels)))
    block = stitch_block(grid, Box(3, 100, 0, 1), {}, channels, fill_value=0.75)
    for found in (skipped.merge(), added.merge(), block):
        assert (found == 0.75).all()


def test_labels_are_made_of_probabilities_of_classes_along_the_last_axis():
    for wrong in (np.zeros((2, 2)), [[[0.5]]]):
        with pytest.raises(ArrayError, match=r"`probs` must be an array \(H, W, K\)"):
            labels_of(wrong)


def test_a_threshold_is_for_one_class_or_two():
    assert check_threshold(0.25, None) == check_threshold(0.25, 2) == 0.25
    assert check_threshold(0.5, 3) == 0.5
    for threshold, stated in ((0.25, False), (0.5, True)):
        with pytest.raises(SettingError, match="`threshold` must be left out with 3 classes"):
            check_threshold(threshold, 3, stated=stated)


def test_labels_of_ties():
    assert labels_of(np.array([[[0.5], [0.49]]], np.float32)).tolist() == [[1, 0]]
    assert labels_of(np.array([[[0.2, 0.4, 0.4]]], np.float32)).tolist() == [[1]]
