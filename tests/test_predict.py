"""tiled_predict and plan: one image of any size through a network."""

import threading
from types import SimpleNamespace
from typing import get_args

import cv2
import keras
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import tiledseg as ts
from tiledseg import metrics
from tiledseg.config import Blend, PreprocessingConfig
from tiledseg.errors import ArrayError, CancelledError, FileError, ModelError, SettingError
from tiledseg.export import write_geojson
from tiledseg.io import write_image
from tiledseg.models import builder_for
from tiledseg.objects import label_objects, tiled_objects
from tiledseg.predict import seam_report
from tiledseg.preprocess import prepare


def noise(height=90, width=70, channels=3, dtype=np.uint8):
    return np.random.default_rng(3).integers(0, 256, (height, width, channels)).astype(dtype)


def pointwise(tiles):
    return np.tanh(tiles[..., :2] / 255)


def segmenter(network=None, threshold=0.5, tiling=None, **preprocessing):
    return SimpleNamespace(
        network=network or (lambda tiles: tiles[..., :1]),
        preprocessing=PreprocessingConfig(**preprocessing),
        labels=("cell",),
        threshold=threshold,
        tiling=tiling or ts.TilingConfig(tile_size=32, overlap=8),
    )


@pytest.fixture(scope="module")
def unet():
    """Three levels, 3 x 3 kernels, free input size; its receptive radius is 22 px."""
    keras.utils.set_random_seed(1)
    config = ts.UNetConfig(
        input_shape=(None, None, 1), levels=3, base_filters=4, base_kernel=3, norm="batch", dropout=0.0
    )
    return ts.UNetBuilder(config).build()


@given(
    st.integers(1, 150),
    st.integers(1, 150),
    st.integers(8, 64),
    st.integers(8, 64),
    st.floats(0, 0.8),
    st.sampled_from(get_args(Blend)),
    st.integers(1, 5),
)
@settings(max_examples=60)
def test_a_pointwise_model_gives_the_same_map_for_every_tiling(
    height, width, h, w, overlap, blend, batch_size
):
    image = noise(height, width)
    tiling = ts.TilingConfig(tile_size=(h, w), overlap=overlap, blend=blend)
    probs = ts.tiled_predict(pointwise, image, tiling, batch_size=batch_size)
    assert probs.dtype == np.float32
    np.testing.assert_allclose(probs, pointwise(image.astype(np.float32)), rtol=1e-6, atol=1e-7)


def test_tiled_equals_whole_for_an_aligned_unet(unet):
    image = np.random.default_rng(0).random((240, 200, 1), np.float32)
    radius = 22
    tiling = ts.TilingConfig(tile_size=96, overlap=2 * radius, blend="crop")
    tiled = ts.tiled_predict(unet, image, tiling)
    whole = np.asarray(unet(image[None]))[0]
    assert whole.std() > 1e-3
    np.testing.assert_allclose(tiled, whole, atol=1e-5)
    shifted = ts.TilingConfig(tile_size=96, overlap=0, blend="crop")
    assert np.abs(ts.tiled_predict(unet, image, shifted) - whole).max() > 1e-4


def test_batch_size_and_threads_do_not_change_the_map(unet):
    image = np.random.default_rng(0).random((150, 130, 1), np.float32)
    tiling = ts.TilingConfig(tile_size=64, overlap=16)
    one = ts.tiled_predict(unet, image, tiling, batch_size=1)
    np.testing.assert_allclose(ts.tiled_predict(unet, image, tiling, batch_size=5), one, atol=1e-6)
    results = {}
    threads = [
        threading.Thread(target=lambda key=key: results.update({key: ts.tiled_predict(unet, image, tiling)}))
        for key in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for key in range(4):
        np.testing.assert_allclose(results[key], one, atol=1e-6)


def test_a_fixed_network_sets_its_own_tile_size():
    config = ts.UNetConfig(input_shape=(32, 48, 3), levels=3, base_filters=2, base_kernel=3)
    model = ts.UNetBuilder(config).build()
    assert ts.tiled_predict(model, noise()).shape == (90, 70, 1)
    assert ts.plan(model, (90, 70)).tiling.tile_shape == (32, 48)
    with pytest.raises(SettingError, match="be 32 px along y, the network's input; got 64"):
        ts.tiled_predict(model, noise(), ts.TilingConfig(tile_size=64))


def test_a_tile_that_does_not_fit_the_stride_is_refused(unet):
    with pytest.raises(SettingError, match=r"total stride 4 px; got 50\. Use 48 or 52"):
        ts.tiled_predict(unet, noise(channels=1), ts.TilingConfig(tile_size=50))


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (7, 5), (33, 32)])
def test_every_size_comes_back_at_its_own_size(unet, shape):
    assert ts.tiled_predict(unet, noise(*shape, 1), ts.TilingConfig(tile_size=32)).shape == (*shape, 1)
    assert ts.tiled_predict(unet, noise(*shape, 1)[..., 0], ts.TilingConfig(tile_size=32)).shape == (
        *shape,
        1,
    )


def test_a_segmenter_prepares_the_image_and_brings_its_tiling():
    image = noise(100, 80)
    probs = ts.tiled_predict(segmenter(), image)
    np.testing.assert_allclose(probs[..., 0], image[..., 0] / np.float32(255), rtol=1e-6)
    assert ts.plan(segmenter(), image.shape).tiling.tile_shape == (32, 32)
    with pytest.raises(ArrayError, match="have dtype uint8"):
        ts.tiled_predict(segmenter(), image.astype(np.float32))


@pytest.mark.parametrize("scale", [0.25, 0.4, 0.13])
def test_scale_shrinks_before_and_enlarges_after(scale):
    image = noise(171, 143)
    model = segmenter(scale=scale)
    small = np.asarray(prepare(image, model.preprocessing))[..., 0]
    wanted = cv2.resize(small, (143, 171), interpolation=cv2.INTER_LINEAR)
    probs = ts.tiled_predict(model, image)
    assert probs.shape == (171, 143, 1)
    np.testing.assert_allclose(probs[..., 0], wanted, atol=1 / 4096)
    out = np.zeros((171, 143), np.uint8)
    ts.tiled_predict(model, image, out=out, output="mask")
    np.testing.assert_array_equal(out, probs[..., 0] >= 0.5)


def test_a_mask_is_cut_at_the_segmenters_threshold_and_has_no_channel_axis():
    image = noise()
    low = ts.tiled_predict(segmenter(threshold=0.2), image, output="mask")
    assert low.dtype == np.uint8
    np.testing.assert_array_equal(low, image[..., 0] / np.float32(255) >= np.float32(0.2))
    assert ts.tiled_predict(segmenter(threshold=0.9), image, output="mask").sum() < low.sum()
    np.testing.assert_array_equal(ts.tiled_predict(segmenter(threshold=0.2), image, output="labels"), low)


@pytest.mark.parametrize("output", ["mask", "labels"])
@pytest.mark.parametrize(("classes", "dtype"), [(3, np.uint8), (300, np.uint16)])
def test_a_mask_of_several_classes_is_the_label_of_the_largest(output, classes, dtype):
    def network(tiles):
        return np.concatenate([tiles / 255, np.zeros((*tiles.shape[:3], classes - 3), np.float32)], axis=-1)

    labels = ts.tiled_predict(network, noise(40, 30), {"tile_size": 32, "overlap": 0}, output=output)
    assert (labels.dtype, labels.shape) == (dtype, (40, 30))
    np.testing.assert_array_equal(labels, noise(40, 30).argmax(axis=-1))


@pytest.mark.parametrize("suffix", [".png", ".npy", ".ome.tif"])
def test_a_path_is_predicted_as_its_array(suffix, tmp_path):
    path, image = tmp_path / f"a{suffix}", noise(150, 130)
    if suffix == ".png":
        write_image(path, image)
    elif suffix == ".npy":
        np.save(path, image)
    else:
        tifffile.imwrite(path, image, tile=(64, 64), photometric="rgb")
    wanted = ts.tiled_predict(segmenter(), image)
    np.testing.assert_array_equal(ts.tiled_predict(segmenter(), path), wanted)
    np.testing.assert_array_equal(ts.tiled_predict(segmenter(), str(path)), wanted)
    plans = [str(ts.plan(segmenter(), one)).splitlines() for one in (path, image)]
    found, expected = ([line for line in lines if not line.startswith("memory")] for lines in plans)
    assert found == expected  # the memory contains that of this process
    with pytest.raises(FileError, match="missing"):
        ts.tiled_predict(segmenter(), tmp_path / "missing.png")


@pytest.mark.parametrize("shape", [(156, 156), (156, 90), (70, 400), (1, 1)])
def test_a_network_of_free_size_sees_no_padding_that_the_whole_image_does_not_have(shape):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((None, None, 1))
    x = keras.layers.Conv2D(4, 9, padding="same", activation="relu")(inputs)
    model = keras.Model(inputs, keras.layers.Conv2D(1, 9, padding="same")(x))
    image = np.random.default_rng(0).random((*shape, 1), np.float32)
    whole = np.asarray(model(image[None]))[0]
    plan = ts.plan(model, image, {"tile_size": 160, "overlap": 16, "blend": "crop"})
    assert plan.grid.tile_shape == tuple(min(160, length) for length in shape)
    if max(shape) <= 160:
        assert plan.verdict == "exact"
        np.testing.assert_allclose(ts.tiled_predict(model, image, plan.tiling), whole, atol=1e-6)
    exact = ts.tiled_predict(model, image, {"tile_size": 160, "overlap": "exact"})
    np.testing.assert_allclose(exact, whole, atol=1e-6)
    flipped = ts.tiled_predict(model, image, {"tile_size": 160, "overlap": 16}, tta="d4")
    assert flipped.shape == whole.shape


def test_a_segmenter_keeps_the_context_that_it_was_trained_with(unet):
    own = segmenter(unet, tiling=ts.TilingConfig(tile_size=64, overlap=16), channels=1)
    plan = ts.plan(own, (30, 40, 1))
    assert plan.grid.tile_shape == (64, 64)
    assert (plan.verdict, plan.reason) == ("approximate", "the image is smaller than the tile, and padded")
    for overlap in ("exact", 16):
        given = ts.plan(own, (30, 40, 1), {"tile_size": 64, "overlap": overlap})
        assert (given.grid.tile_shape, given.verdict) == ((32, 40), "exact")


@pytest.mark.parametrize("name", ["unet", "swin_unet"])
def test_the_default_tiling_fits_every_network(name):
    size = {"unet": 64, "swin_unet": 256}[name]
    config = {"name": name, "input_shape": (size, size, 3)}
    small = {"unet": {"levels": 3, "base_filters": 2}, "swin_unet": {"embedding": 12}}[name]
    plan = ts.plan(builder_for(config | small).build(blank=True), (600, 700, 3))
    assert plan.grid.tile_shape == (size, size)
    assert plan.grid.y.alignment + plan.grid.y.overlap <= size


@pytest.mark.parametrize("scale", [1.0, 0.5, 0.3])
def test_positions_are_px_of_the_image_that_was_given(scale):
    model, image, seen = segmenter(scale=scale), noise(171, 143), []
    ts.tiled_predict(model, image, callback=lambda tile, *_: seen.append(tile))
    cores = np.zeros((171, 143), int)
    for tile in seen:
        cores[tile.core_box.slices] += 1
    assert (cores == 1).all()
    plan, report = ts.plan(model, image), seam_report(model, image)
    assert report.disagreement.shape == (171, 143)
    assert max(max(borders) for borders in plan.borders) > 70
    ends = [(seam.box.y1, seam.box.x1) for seam in report.seams]
    assert max(y for y, _ in ends) == 171
    assert max(x for _, x in ends) == 143


def test_logits_of_a_segmenter_are_refused():
    with pytest.raises(ModelError, match="activation to sigmoid or softmax"):
        ts.tiled_predict(segmenter(lambda tiles: tiles[..., :1] * 9 - 4), noise())


def test_a_roi_says_where_to_predict():
    image, mask = noise(100, 100), np.zeros((100, 100), bool)
    mask[40:60, 70:75] = True
    seen = []

    def counting(tiles):
        seen.append(len(tiles))
        return tiles[..., :1]

    tiling = ts.TilingConfig(tile_size=32, overlap=8)
    probs = ts.tiled_predict(counting, image, tiling, roi=mask, fill_value=-1.0)
    assert 0 < sum(seen) < len(ts.plan(counting, image.shape, tiling).grid)
    np.testing.assert_allclose(probs[mask][:, 0], image[mask][:, 0], rtol=1e-6)
    assert probs[0, 0, 0] == -1
    whole = ts.tiled_predict(counting, image, tiling, roi=np.ones((100, 100), np.uint8))
    np.testing.assert_allclose(whole[..., 0], image[..., 0], rtol=1e-6)


def test_an_empty_roi_computes_nothing():
    model = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Conv2D(2, 1)])
    nothing = np.zeros((90, 70), bool)
    filled = ts.tiled_predict(model, noise(), roi=nothing, fill_value=0.5)
    np.testing.assert_allclose(filled, np.full((90, 70, 2), 0.5), rtol=1e-6)
    with pytest.raises(ArrayError, match="contain at least one px"):
        ts.tiled_predict(pointwise, noise(), roi=nothing)


@pytest.mark.parametrize(
    ("mask", "message"),
    [(np.ones((90, 71), bool), r"height and width \(90, 70\)"), (np.ones((90, 70)), "boolean or integer")],
)
def test_a_roi_that_does_not_fit_is_refused(mask, message):
    with pytest.raises(ArrayError, match=message):
        ts.tiled_predict(pointwise, noise(), roi=mask)


def test_the_callback_sees_every_tile_once():
    seen = []
    ts.tiled_predict(
        pointwise,
        noise(),
        ts.TilingConfig(tile_size=32),
        callback=lambda *call: seen.append(call),
        batch_size=3,
    )
    total = seen[0][2]
    assert [tile.id for tile, _, _ in seen] == list(range(total))
    assert [done for _, done, _ in seen] == list(range(1, total + 1))


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_cancelling_keeps_the_finished_part(scale):
    image = noise(300, 120)
    model = segmenter(scale=scale)
    whole = ts.tiled_predict(model, image)
    with pytest.raises(CancelledError, match="Cancelled after 12 of ") as caught:
        ts.tiled_predict(model, image, callback=lambda _tile, done, _total: done < 12, fill_value=0.75)
    rows = caught.value.finished_rows
    assert 0 < rows < 300
    np.testing.assert_array_equal(caught.value.result[:rows], whole[:rows])
    assert (caught.value.result[rows:] == 0.75).all()


def test_keyboard_interrupt_leaves_finished_rows_in_out():
    image, out = noise(300, 64, 1), np.full((300, 64, 1), -1, np.float32)

    def interrupt(_tile, done, _total):
        if done == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ts.tiled_predict(lambda t: t, image, ts.TilingConfig(tile_size=32), out=out, callback=interrupt)
    rows = int((out[:, 0, 0] >= 0).argmin())
    assert rows > 0
    np.testing.assert_allclose(out[:rows], image[:rows], rtol=1e-6)


def test_nan_in_the_image_stops_before_the_network_runs():
    image = noise(dtype=np.float32)
    image[80, 60, 1] = np.nan
    calls = []
    with pytest.raises(ArrayError, match=r"1 NaN or infinite values, the first at \(y, x\) = \(80, 60\)"):
        ts.tiled_predict(lambda tiles: calls.append(1) or tiles, image, ts.TilingConfig(tile_size=32))
    assert not calls


@pytest.mark.parametrize(
    "dtype", ["bool", "int8", "uint8", "uint16", "int64", "float16", "float64", ">f4", ">u2"]
)
def test_every_real_dtype_and_layout_gives_the_contiguous_copys_result(dtype):
    image = (noise() // 2).astype(dtype)
    wanted = ts.tiled_predict(pointwise, np.ascontiguousarray(image).astype(np.float32))
    for same in (image, np.asfortranarray(image), image[::-1][::-1]):
        np.testing.assert_array_equal(ts.tiled_predict(pointwise, same), wanted)


def test_options_that_cannot_be_used_are_refused():
    for options, message in [
        ({"batch_size": 0}, "`batch_size`"),
        ({"batch_size": True}, "`batch_size`"),
        ({"batch_size": 1.5}, "`batch_size`"),
        ({"fill_value": float("inf")}, "`fill_value`"),
        ({"fill_value": "1"}, "`fill_value`"),
        ({"output": "mean"}, "`output`"),
        ({"tta": "rotations"}, "`tta`"),
        ({"runtime": {"memory": 10}}, "`memory`"),
        ({"runtime": {"memory": "4"}}, "memory"),
        ({"runtime": {"engin": "keras"}}, "engine"),
        ({"batch_size": 9, "runtime": {"memory": 1}}, "`memory`"),
        ({"callback": 5}, "`callback`"),
        ({"tiling": {"tile_sise": 32}}, "tile_size"),
        ({"tiling": 32}, r"TilingConfig"),
    ]:
        with pytest.raises(SettingError, match=message):
            ts.tiled_predict(pointwise, noise(), **options)


def test_the_plan_says_what_happens(unet):
    calls = []

    def counting(tiles):
        calls.append(tiles.shape)
        return tiles

    tiling = ts.TilingConfig(tile_size=32, overlap=8)
    plan = ts.plan(counting, (90, 70, 3), tiling, batch_size=5)
    ts.tiled_predict(counting, noise(), tiling, batch_size=5)
    assert len(calls) == plan.calls
    assert sum(shape[0] for shape in calls) == len(plan.grid)
    assert plan.output_bytes == 90 * 70 * 4
    text = str(ts.plan(unet, (1920, 2560, 1), ts.TilingConfig(tile_size=512, overlap=64)))
    for words in ("1920 x 2560 px", "tiles", "redundancy", "MiB", "alignment       4 px"):
        assert words in text
    assert plan.memory["now"] == plan.process_bytes > 0
    scaled = ts.plan(segmenter(scale=0.1), (1920, 2560, 3))
    assert scaled.grid.shape == (192, 256)
    assert "scaled by 0.1 to 192 x 256 px" in str(scaled)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((90, 70, 4), "3 channels"),
        ((90, 70, 5), "3 channels"),
        ((3, 90, 70), "numpy.moveaxis"),
        ((9,), "H, W"),
    ],
)
def test_a_plan_for_what_is_no_image_is_refused(shape, message):
    with pytest.raises(ArrayError, match=message):
        ts.plan(segmenter(keras.Sequential([keras.Input((None, None, 3)), keras.layers.Conv2D(1, 1)])), shape)


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("Can't call numpy() on Tensor that requires grad.", "no_grad.*inside the function"),
        (
            "weight of size [4, 3], expected input[1, 8, 8, 3] to have 3 channels",
            r"permute.* to \(N, C",
        ),
        ("conv2d(): argument 'input' must be Tensor, not numpy.ndarray", "pass a PyTorch module itself"),
    ],
)
def test_usual_mistakes_about_pytorch_are_named(said, advice):
    def network(tiles):
        raise (TypeError if "ndarray" in said else RuntimeError)(said)

    with pytest.raises(ModelError, match=advice):
        ts.tiled_predict(network, np.zeros((8, 8, 3), np.uint8))


def test_a_network_that_fails_is_named():
    def broken_network(_tiles):
        raise RuntimeError("no such device\nat line 3")

    with pytest.raises(
        ModelError, match=r"shape \(\d+, 512, 512, 3\): RuntimeError: no such device\. Correct it"
    ):
        ts.tiled_predict(broken_network, noise())


def test_a_tile_that_no_machine_can_hold_is_refused():
    inputs = keras.Input((None, None, 3))
    hungry = keras.Model(inputs, keras.layers.Conv2D(1, 1)(keras.layers.Conv2D(20_000, 1)(inputs)))
    with pytest.raises(SettingError, match="Use smaller tiles"):
        ts.plan(hungry, (5000, 5000, 3), ts.TilingConfig(tile_size=4096, overlap=64))


def test_numbers_that_float32_cannot_hold_are_refused():
    image = np.zeros((40, 40))
    image[4, 5] = 1e300
    with pytest.raises(ArrayError, match=r"be finite as float32.*\(y, x\) = \(4, 5\)"):
        ts.tiled_predict(pointwise, image)


def test_out_may_not_be_what_is_read(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((70, 80), np.float32))
    image, out = (np.load(tmp_path / "a.npy", mmap_mode=mode) for mode in ("r", "r+"))
    for source in (image, image[:], tmp_path / "a.npy"):
        with pytest.raises(ArrayError, match=r"memory of its own; got the image's file, .*a\.npy"):
            ts.tiled_predict(lambda tiles: tiles + 1, source, out=out[:])
    assert not np.load(tmp_path / "a.npy").any()
    out = np.lib.format.open_memmap(tmp_path / "gone.npy", "w+", np.float32, (70, 80))
    (tmp_path / "gone.npy").unlink()  # as of a temporary file
    assert (ts.tiled_predict(lambda tiles: tiles + 1, image, out=out) == 1).all()
    repeated = np.lib.stride_tricks.as_strided(np.zeros(80, np.float32), (70, 80), (0, 4))
    with pytest.raises(ArrayError, match="px share a place"):
        ts.tiled_predict(lambda tiles: tiles, image, out=repeated)


@pytest.mark.parametrize("output", ["uint8", "mask", "labels"])
def test_a_fill_value_must_fit_the_output(output):
    with pytest.raises(SettingError, match=r"`fill_value` must be in \[0, 1\] .* got 3"):
        ts.tiled_predict(lambda tiles: tiles, np.zeros((9, 9), np.float32), output=output, fill_value=3)


def test_out_may_not_be_the_images_memory():
    image = noise(dtype=np.float32)
    with pytest.raises(ArrayError, match="have memory of its own"):
        ts.tiled_predict(lambda tiles: tiles, image, out=image[::-1])


@pytest.mark.parametrize("lie", [lambda a: a[:1], lambda a: a[..., 0], lambda a: a + 300, lambda a: a * 1j])
def test_a_source_that_breaks_its_promise_is_named(lie):
    class Source:
        shape, dtype = (90, 70, 3), np.dtype("uint8")

        def __getitem__(self, key):
            return lie(
                noise()[key].astype(np.int32) if lie(np.zeros((2, 2, 3))).max() == 300 else noise()[key]
            )

    with pytest.raises(ArrayError, match=r"at \(y, x\) = \(0, 0\).*Correct the source"):
        ts.tiled_predict(pointwise, Source(), ts.TilingConfig(tile_size=32))


def test_a_cancelled_map_is_reduced_to_its_end():
    out = np.full((300, 64), 9, np.uint8)
    with pytest.raises(CancelledError) as caught:
        ts.tiled_predict(
            lambda tiles: tiles / 255,
            noise(300, 64, 1),
            ts.TilingConfig(tile_size=32),
            out=out,
            output="uint8",
            fill_value=0.5,
            callback=lambda _tile, done, _total: done < 20,
        )
    assert 0 < caught.value.finished_rows < 300
    assert (out[caught.value.finished_rows :] == 128).all()


def test_a_closed_image_of_pillow_is_refused():
    image = Image.fromarray(noise()[..., 0])
    image.close()
    with pytest.raises(ArrayError, match=r"`image` cannot be read: ValueError.* Pass a NumPy array"):
        ts.tiled_predict(pointwise, image)


@pytest.mark.parametrize("shape", [(-5, 100), (100.7, 100), (True, True), (5, 5, -1), None, 7])
def test_impossible_shapes_are_refused(shape):
    with pytest.raises(ArrayError, match="px"):
        ts.plan(pointwise, shape)


def test_endless_grids_and_masked_arrays_are_refused():
    with pytest.raises(SettingError, match="at most 1000000 tiles"):
        ts.plan(pointwise, (10**12, 10**12, 3))
    with pytest.raises(ArrayError, match=r"masked array.*`roi`"):
        ts.tiled_predict(pointwise, np.ma.masked_array(noise()))
    for refused in (
        lambda: ts.tiled_predict(pointwise, noise(), out=np.ma.zeros((90, 70, 2), np.float32)),
        lambda: ts.tiled_predict(pointwise, noise(), roi=np.ma.masked_array(noise()[..., 0])),
        lambda: label_objects(noise()[..., 0], out=np.ma.zeros((90, 70), np.uint32)),
        lambda: tiled_objects(lambda part: np.ma.masked_array(part[..., 0]), noise()),
        lambda: write_image("a.png", np.ma.masked_array(noise())),
        lambda: write_geojson("a.json", np.ma.masked_array(noise()[..., 0])),
        lambda: metrics.count(np.ma.masked_array(noise()[..., 0] > 9), noise()[..., 0] > 9),
    ):
        with pytest.raises(ArrayError, match=r"must not be a masked array"):
            refused()


def test_many_channels_can_be_scaled():
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 130), np.uint8)
    prepared = np.asarray(prepare(image, PreprocessingConfig(channels=130, scale=0.5)))
    np.testing.assert_allclose(prepared, image.reshape(10, 2, 15, 2, 130).mean(axis=(1, 3)) / 255, atol=1e-6)


def test_an_error_of_the_array_that_is_filled_is_a_typed_error():
    class Full(np.ndarray):
        def __setitem__(self, key, values):
            raise OSError(28, "No space left on device")

    probs, labels = np.zeros((90, 70, 2), np.float32).view(Full), np.zeros((90, 70), np.uint32).view(Full)
    with pytest.raises(ArrayError, match=r"`out` cannot be written: .*No space left"):
        ts.tiled_predict(pointwise, noise(), {"tile_size": 16, "overlap": 4}, out=probs)
    with pytest.raises(ArrayError, match=r"`out` cannot be written: .*No space left"):
        label_objects(noise()[..., 0], out=labels)
    with pytest.raises(ModelError, match=r"`fn` failed on a part of shape \(90, 70, 3\): KeyError: 3"):
        tiled_objects(lambda part: {}[part.ndim], noise())


def test_an_error_of_a_source_or_of_an_error_itself_is_a_typed_error():
    class Broken:
        shape, dtype = (40, 50, 3), np.dtype(np.uint8)

        def __getitem__(self, key):
            raise ValueError("on purpose")

    class Quiet(Exception):
        def __str__(self):
            raise RuntimeError

    def fail(tiles):
        raise Quiet

    tiling = {"tile_size": 16, "overlap": 4}
    with pytest.raises(ArrayError, match=r"\(y, x\) = \(0, 0\): ValueError: on purpose. Correct the source"):
        ts.tiled_predict(lambda tiles: tiles, Broken(), tiling)
    with pytest.raises(ModelError, match=r"failed on tiles.*Quiet"):
        ts.tiled_predict(fail, np.zeros((40, 50, 3), np.uint8), tiling)
    with pytest.raises(SettingError, match=r"`callback` failed: Quiet. .*returns False to stop"):
        ts.tiled_predict(pointwise, noise(), tiling, callback=lambda *_: fail(0))
    with pytest.raises(ModelError, match=r"MaskedArray.*without masked values"):
        ts.tiled_predict(lambda tiles: np.ma.masked_equal(tiles, 0), np.zeros((40, 50, 3)), tiling)


class AnyName:
    """A callable that has every attribute, as a stub of a server has, or fails for each."""

    def __init__(self, error: bool) -> None:
        self.__dict__["error"] = error

    def __getattr__(self, name: str) -> object:
        if self.error:
            raise RuntimeError(name)
        return self

    def __call__(self, tiles: np.ndarray) -> np.ndarray:
        return tiles[..., :1] / 255


@pytest.mark.parametrize("error", [True, False])
def test_a_callable_that_has_every_attribute_is_a_callable(error):
    image = np.arange(48, dtype=np.uint8).reshape(6, 8)
    found = ts.tiled_predict(AnyName(error), image, {"tile_size": 4})
    np.testing.assert_allclose(found[..., 0], image / 255, atol=1e-6)


def test_outputs_beyond_float32_are_named_without_a_warning():
    with pytest.raises(ts.TiledSegError, match="must be finite"):
        ts.tiled_predict(lambda tiles: tiles[..., :1].astype(float) * 1e99, np.ones((4, 4)), {"tile_size": 4})


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_a_plan_refuses_the_dtype_that_its_prediction_would_refuse(dtype):
    segmenter = ts.load_model("demo")
    for call in (ts.plan, ts.tiled_predict):
        with pytest.raises(ArrayError, match="have dtype uint8, that of the images"):
            call(segmenter, np.zeros((90, 120, 3), dtype))
    assert ts.plan(segmenter, (90, 120)).shape == (90, 120)


def test_too_many_channels_are_told_how_to_be_chosen():
    message = r"got \(90, 120, 5\)\. Choose 3 channels: .* of a file by channels=\(0, 1, 2\)"
    with pytest.raises(ArrayError, match=message):
        ts.plan(ts.load_model("demo"), np.zeros((90, 120, 5), np.uint8))
