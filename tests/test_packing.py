"""Several images through one network: batches filled up across images, errors kept apart."""

import os
import signal
import threading
import time

import numpy as np
import pytest

import tiledseg as ts
from tiledseg.config import PredictConfig
from tiledseg.engine import Network
from tiledseg.errors import CancelledError, ModelError
from tiledseg.io import read_image, read_probs, write_image


def batcher(network, batch_size=8, tta=None):
    return Network.of(network).batcher(0, batch_size, tta)


def together(calls):
    """Run calls in threads of their own, and give what each returned or raised."""
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
        thread.join(30)
    return [found[key] for key in range(len(calls))]


def of(value, number, size=4):
    return np.full((number, size, size, 1), value, np.float32)


def test_tiles_that_wait_fill_one_another_s_batches_up():
    sizes, first = [], threading.Event()

    def network(tiles):
        sizes.append(len(tiles))
        if len(sizes) == 1:
            first.wait(10)  # until the others wait
        return tiles + 1

    shared = batcher(network)
    calls = [lambda: shared(of(0, 8))]
    calls += [lambda value=value: shared(of(value, 3)) for value in range(1, 6)]
    timer = threading.Timer(0.5, first.set)
    timer.start()
    for value, outputs in enumerate(together(calls)):
        np.testing.assert_array_equal(outputs, of(value + 1, 8 if value == 0 else 3))
    timer.join()
    assert sum(sizes) == 8 + 15
    assert len(sizes) == 3  # 8, 8 and 7; one by one it would be six
    assert max(sizes) == 8


def test_other_sizes_and_dtypes_are_not_packed_together_and_more_than_a_batch_is_split():
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


def test_an_error_is_the_caller_s_whose_tiles_it_is():
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
    np.testing.assert_array_equal(shared(of(1, 2)), of(1, 2))  # and it goes on


def test_giving_up_ends_whoever_waits():
    def network(tiles):
        time.sleep(0.3)
        return tiles

    shared = batcher(network, batch_size=1)
    threading.Timer(0.1, shared.close).start()
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


def test_a_folder_gives_what_each_of_its_images_gives_alone(tmp_path):
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
    assert from_folder <= len(calls) + 6  # one call per image tells how many channels there are


@pytest.mark.skipif(os.name == "nt", reason="sends a signal")
def test_control_c_ends_a_folder(tmp_path):
    folder, before = _folder(tmp_path), threading.active_count()

    def slow(tiles):
        time.sleep(0.05)
        return tiles[..., :1] / 255

    config = PredictConfig(batch_size=1)
    tiling = ts.TilingConfig(tile_size=16, overlap=8)
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    started = time.perf_counter()
    try:
        with pytest.raises(KeyboardInterrupt):
            ts.predict_files(slow, folder, tmp_path / "out", config, tiling=tiling)
    finally:
        timer.cancel()
        timer.join()
    assert time.perf_counter() - started < 5
    assert threading.active_count() == before
    assert len(list((tmp_path / "out" / "masks").glob("*"))) < 6
