"""Batches: read, run and used at the same time, shared by images, reduced where memory runs out."""

import os
import signal
import threading
import time

import numpy as np
import pytest

import tiledseg as ts
from tiledseg.config import PredictConfig
from tiledseg.engine import Network
from tiledseg.errors import ArrayError, CancelledError, ModelError
from tiledseg.io import read_image, read_probs, write_image

TILING = ts.TilingConfig(tile_size=32, overlap=8)
IMAGE = np.random.default_rng(0).integers(0, 256, (300, 120, 3), np.uint8)


class Slow:
    """An image, a network and a sink that each wait a moment."""

    shape, dtype = IMAGE.shape, IMAGE.dtype

    def __init__(self, seconds):
        self.seconds = seconds

    def __getitem__(self, key):
        time.sleep(self.seconds)
        return IMAGE[key]

    def __call__(self, tiles):
        time.sleep(self.seconds)
        return tiles[..., :1]

    def use(self, *_):
        time.sleep(self.seconds)


@pytest.fixture(autouse=True)
def no_thread_is_left():
    before = set(threading.enumerate())  # those of other libraries may end meanwhile
    yield
    assert not set(threading.enumerate()) - before


class Meeting(Slow):
    """The third read, the second call and the first use wait for one another; reads and calls are long."""

    def __init__(self):
        super().__init__(0)
        self.met, self.counts = threading.Barrier(3), {"read": 0, "run": 0, "used": 0}

    def begin(self, what, meeting):
        self.counts[what] += 1
        if self.counts[what] == meeting:
            self.met.wait(600)  # raises BrokenBarrierError if the others do not come

    def __getitem__(self, key):
        self.begin("read", 3)
        time.sleep(0.001)
        return IMAGE[key]

    def __call__(self, tiles):
        self.begin("run", 2)
        time.sleep(0.002)
        return tiles[..., :1]

    def use(self, *_):
        self.begin("used", 1)


def test_reading_running_and_stitching_overlap():
    meeting = Meeting()
    probs = ts.tiled_predict(meeting, meeting, TILING, batch_size=1, callback=meeting.use)
    assert not meeting.met.broken
    assert min(meeting.counts.values()) > 3
    np.testing.assert_allclose(probs[..., 0], IMAGE[..., 0], rtol=1e-6)


def test_at_most_three_batches_are_in_memory():
    read, finished, most = [], [], []

    class Watched(Slow):
        def __getitem__(self, key):
            read.append(key)
            most.append(len(read) - len(finished))
            return IMAGE[key]

    watched = Watched(0.002)
    ts.tiled_predict(
        watched, watched, TILING, batch_size=1, callback=lambda *_: finished.append(watched.use())
    )
    assert len(finished) > 20
    assert max(most) <= 3


class Broken(Slow):
    """An image whose lower part cannot be read."""

    def __getitem__(self, key):
        if key[0].start > 100:
            raise OSError("the disk is gone")
        return IMAGE[key]


def _fails_late():
    calls = []

    def network(tiles):
        calls.append(1)
        if len(calls) == 9:
            raise ValueError("the device is gone")
        return tiles[..., :1]

    return network


class FullSink(np.ndarray):
    def __setitem__(self, key, value):
        if key.start > 50:
            raise OSError("the disk is full")
        super().__setitem__(key, value)


@pytest.mark.parametrize(
    ("network", "image", "out", "error", "message"),
    [
        (lambda t: t[..., :1], Broken(0), None, (OSError, ArrayError), "the disk is gone"),
        (_fails_late(), IMAGE, None, ModelError, "the device is gone"),
        (
            lambda t: t[..., :1],
            IMAGE,
            np.zeros((300, 120, 1), "f4").view(FullSink),
            ArrayError,
            "`out`.*is full",
        ),
    ],
    ids=["reading", "running", "writing"],
)
def test_an_error_in_any_thread_is_raised_and_ends_the_prediction(network, image, out, error, message):
    with pytest.raises(error, match=message):
        ts.tiled_predict(network, image, TILING, out=out, batch_size=2)


def test_cancelling_starts_no_further_call():
    calls = []

    def network(tiles):
        calls.append(len(tiles))
        return tiles[..., :1]

    with pytest.raises(CancelledError):
        ts.tiled_predict(network, IMAGE, TILING, batch_size=1, callback=lambda _tile, done, _total: done < 4)
    assert len(calls) <= 6


class Interrupting(Slow):
    """A network that receives Ctrl-C during its third call."""

    calls = 0

    def __call__(self, tiles):
        self.calls += 1
        if self.calls == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return super().__call__(tiles) / 255


@pytest.mark.skipif(os.name == "nt", reason="sends a signal")
def test_control_c_ends_a_running_prediction():
    slow = Interrupting(0.02)
    with pytest.raises(KeyboardInterrupt):
        ts.tiled_predict(slow, IMAGE, TILING, batch_size=1)
    assert slow.calls < 20 < len(ts.plan(slow, IMAGE.shape, TILING).grid)


def test_a_network_may_reuse_the_memory_of_its_output():
    buffer = np.zeros((1, 32, 32, 1), np.float32)

    def network(tiles):
        buffer[...] = tiles[..., :1]
        return buffer

    slow = Slow(0.002)
    probs = ts.tiled_predict(network, IMAGE, TILING, batch_size=1, callback=slow.use)
    np.testing.assert_allclose(probs[..., 0], IMAGE[..., 0], rtol=1e-6)


class ResourceExhaustedError(Exception):
    """The name of the error in TensorFlow."""


@pytest.mark.parametrize(
    "error", [MemoryError(), ResourceExhaustedError("OOM"), RuntimeError("RESOURCE_EXHAUSTED: Out of memory")]
)
def test_a_batch_too_large_for_the_memory_is_divided_and_no_other_is_repeated(error):
    sizes = []

    def network(tiles):
        sizes.append(len(tiles))
        if len(sizes) > 2 and len(tiles) > 2:
            raise error
        return tiles[..., :1]

    probs = ts.tiled_predict(network, IMAGE, TILING, batch_size=8)
    np.testing.assert_allclose(probs[..., 0], IMAGE[..., 0], rtol=1e-6)
    assert sizes[:5] == [8, 8, 8, 4, 2]  # the first two were not computed again
    assert set(sizes[5:]) <= {1, 2}  # later ones did not fail first


def test_a_tile_too_large_for_the_memory_is_refused():
    def network(_tiles):
        raise MemoryError

    with pytest.raises(ModelError, match=r"single tile of 32x32 px\. Use smaller tiles"):
        ts.tiled_predict(network, IMAGE, TILING, batch_size=4)


def test_a_batch_with_another_error_is_not_repeated():
    sizes = []

    def network(tiles):
        sizes.append(len(tiles))
        raise RuntimeError("shapes do not match")

    with pytest.raises(ModelError, match="shapes do not match"):
        ts.tiled_predict(network, IMAGE, TILING, batch_size=8)
    assert sizes[0] == 8
    assert set(sizes) == {8}


def test_a_network_may_call_tiled_predict():
    def network(tiles):
        return ts.tiled_predict(lambda t: t[..., :1], tiles[0], ts.TilingConfig(tile_size=16))[None]

    probs = ts.tiled_predict(network, IMAGE, TILING, batch_size=1)
    np.testing.assert_allclose(probs[..., 0], IMAGE[..., 0], rtol=1e-6)


def batcher(network, batch_size=8, tta=None):
    return Network.of(network).batcher(batch_size, tta)


def together(calls):
    """Run each call in its own thread, and return their results or errors."""
    found = {}

    def run(key, call):
        try:
            found[key] = call()
        except Exception as error:  # noqa: BLE001
            found[key] = error

    threads = [threading.Thread(target=run, args=item) for item in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [found[key] for key in range(len(calls))]


def of(value, number, size=4):
    return np.full((number, size, size, 1), value, np.float32)


def test_waiting_tiles_of_several_callers_share_batches():
    sizes = []

    def network(tiles):
        sizes.append(len(tiles))
        while len(sizes) == 1 and len(shared._waiting) < 5:
            time.sleep(0.01)
        return tiles + 1

    shared = batcher(network)
    calls = [lambda: shared(of(0, 8))]
    calls += [lambda value=value: shared(of(value, 3)) for value in range(1, 6)]
    for value, outputs in enumerate(together(calls)):
        np.testing.assert_array_equal(outputs, of(value + 1, 8 if value == 0 else 3))
    assert sum(sizes) == 8 + 15
    assert len(sizes) <= 4  # one by one it would be six
    assert max(sizes) == 8


def test_batches_hold_one_size_and_dtype_and_at_most_the_batch_size():
    shapes = []

    def network(tiles):
        shapes.append(tiles.shape)
        time.sleep(0.01)
        return tiles[..., :1]

    shared = batcher(network)
    calls = [
        lambda: shared(of(1, 5)),
        lambda: shared(of(2, 5, size=6)),
        lambda: shared(of(3, 20)),
        lambda: shared(of(4, 5).astype(np.uint8)),
    ]
    for wanted, found in zip((of(1, 5), of(2, 5, size=6), of(3, 20), of(4, 5)), together(calls), strict=True):
        np.testing.assert_array_equal(found, wanted)
    assert max(shape[0] for shape in shapes) <= 8


def test_an_error_is_raised_only_for_the_caller_whose_tiles_fail():
    def network(tiles):
        time.sleep(0.02)
        if (tiles == 7).any():
            raise ValueError("seven")
        return tiles

    shared = batcher(network)
    found = together([lambda value=value: shared(of(value, 2)) for value in range(9)])
    for value, outputs in enumerate(found):
        if value == 7:
            assert isinstance(outputs, ModelError)
        else:
            np.testing.assert_array_equal(outputs, of(value, 2))
    np.testing.assert_array_equal(shared(of(1, 2)), of(1, 2))  # the batcher still works


def test_a_closed_batcher_cancels_waiting_callers():
    def network(tiles):
        shared.close()
        return tiles

    shared = batcher(network, batch_size=1)
    found = together([lambda: shared(of(0, 4)), lambda: shared(of(1, 4))])
    assert all(isinstance(one, CancelledError) for one in found)
    with pytest.raises(CancelledError):
        shared(of(0, 1))


def _folder(tmp_path, number=6):
    rng = np.random.default_rng(0)
    for place in range(number):
        image = rng.integers(0, 256, (40 + 7 * place, 90 - 5 * place, 3), np.uint8)
        write_image(tmp_path / "images" / f"{place}.png", image)
    return tmp_path / "images"


def test_a_folder_gives_the_same_maps_as_its_images_one_by_one(tmp_path):
    calls = []

    def red(tiles):
        calls.append(len(tiles))
        time.sleep(0.002)
        return tiles[..., :1] / 255

    tiling = ts.TilingConfig(tile_size=32, overlap=8)
    config = PredictConfig(write=("probs",), probs_dtype="float32", batch_size=16, tta="flips")
    folder = _folder(tmp_path)
    result = ts.predict_files(red, folder, tmp_path / "out", config, tiling=tiling)
    assert str(result) == "6 predicted, 0 skipped, 0 failed"
    assert [one.path.name for one in result.outcomes] == [f"{place}.png" for place in range(6)]
    from_folder = len(calls)
    for path in sorted(folder.iterdir()):
        image = read_image(path)
        probs = read_probs(tmp_path / "out" / "probs" / f"{path.stem}.tif")
        np.testing.assert_allclose(probs.reshape(image.shape[:2]), image[..., 0] / 255, atol=1e-6)
    calls.clear()
    for path in sorted(folder.iterdir()):
        ts.tiled_predict(red, read_image(path), tiling, batch_size=16, tta="flips")
    assert from_folder <= len(calls) + 6  # one call per image finds the number of channels


@pytest.mark.skipif(os.name == "nt", reason="sends a signal")
def test_control_c_ends_a_folder(tmp_path):
    folder, slow = _folder(tmp_path), Interrupting(0.02)
    config = PredictConfig(batch_size=1)
    tiling = ts.TilingConfig(tile_size=16, overlap=8)
    with pytest.raises(KeyboardInterrupt):
        ts.predict_files(slow, folder, tmp_path / "out", config, tiling=tiling)
    assert len(list((tmp_path / "out" / "masks").glob("*"))) < 6
