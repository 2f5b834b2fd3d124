"""Reading, running and stitching at once: in time, in order, and cleanly ended."""

import os
import signal
import threading
import time

import numpy as np
import pytest

import tiledseg as ts
from tiledseg.errors import ArrayError, CancelledError, ModelError

TILING = ts.TilingConfig(tile_size=32, overlap=8)
IMAGE = np.random.default_rng(0).integers(0, 256, (300, 120, 3), np.uint8)


class Slow:
    """An image, a network and a sink that each take their time."""

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
    before = threading.active_count()
    yield
    assert threading.active_count() == before


def test_reading_running_and_stitching_overlap():
    slow = Slow(0.01)
    n_tiles = len(ts.plan(slow, slow.shape, TILING).grid)
    started = time.perf_counter()
    probs = ts.tiled_predict(slow, slow, TILING, batch_size=1, callback=slow.use)
    one_by_one = 3 * n_tiles * slow.seconds
    assert time.perf_counter() - started < 0.7 * one_by_one
    np.testing.assert_allclose(probs[..., 0], IMAGE[..., 0], rtol=1e-6)


def test_no_more_than_three_batches_are_under_way():
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
    """An image that cannot be read to its end."""

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
        (lambda t: t[..., :1], IMAGE, np.zeros((300, 120, 1), "f4").view(FullSink), OSError, "is full"),
    ],
    ids=["reading", "running", "writing"],
)
def test_an_error_anywhere_comes_out_and_ends_everything(network, image, out, error, message):
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


@pytest.mark.skipif(os.name == "nt", reason="sends a signal")
def test_control_c_ends_a_running_prediction():
    slow = Slow(0.05)
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    started = time.perf_counter()
    try:
        with pytest.raises(KeyboardInterrupt):
            ts.tiled_predict(slow, IMAGE, TILING, batch_size=1)
    finally:
        timer.cancel()  # not to hit another test, should this one fail before
        timer.join()
    assert time.perf_counter() - started < 2


def test_a_network_may_use_its_output_s_memory_again():
    buffer = np.zeros((1, 32, 32, 1), np.float32)

    def network(tiles):
        buffer[...] = tiles[..., :1]
        return buffer

    slow = Slow(0.002)
    probs = ts.tiled_predict(network, IMAGE, TILING, batch_size=1, callback=slow.use)
    np.testing.assert_allclose(probs[..., 0], IMAGE[..., 0], rtol=1e-6)


class ResourceExhaustedError(Exception):
    """As TensorFlow calls it."""


@pytest.mark.parametrize(
    "error", [MemoryError(), ResourceExhaustedError("OOM"), RuntimeError("RESOURCE_EXHAUSTED: Out of memory")]
)
def test_a_batch_too_large_for_the_memory_is_halved_and_the_others_stand(error):
    sizes = []

    def network(tiles):
        sizes.append(len(tiles))
        if len(sizes) > 2 and len(tiles) > 2:
            raise error
        return tiles[..., :1]

    probs = ts.tiled_predict(network, IMAGE, TILING, batch_size=8)
    np.testing.assert_allclose(probs[..., 0], IMAGE[..., 0], rtol=1e-6)
    assert sizes[:5] == [8, 8, 8, 4, 2]  # the first two were not computed again
    assert set(sizes[5:]) <= {1, 2}  # and later ones did not fail first


def test_a_tile_too_large_for_the_memory_is_told():
    def network(_tiles):
        raise MemoryError

    with pytest.raises(ModelError, match=r"single tile of 32x32 px\. Use smaller tiles"):
        ts.tiled_predict(network, IMAGE, TILING, batch_size=4)


def test_an_error_that_is_none_of_memory_is_not_tried_again():
    sizes = []

    def network(tiles):
        sizes.append(len(tiles))
        raise RuntimeError("shapes do not match")

    with pytest.raises(ModelError, match="shapes do not match"):
        ts.tiled_predict(network, IMAGE, TILING, batch_size=8)
    assert sizes[0] == 8
    assert set(sizes) == {8}


def test_a_network_may_itself_predict_in_tiles():
    def network(tiles):
        return ts.tiled_predict(lambda t: t[..., :1], tiles[0], ts.TilingConfig(tile_size=16))[None]

    probs = ts.tiled_predict(network, IMAGE, TILING, batch_size=1)
    np.testing.assert_allclose(probs[..., 0], IMAGE[..., 0], rtol=1e-6)
