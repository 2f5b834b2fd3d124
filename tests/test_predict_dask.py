"""Dask: lazy maps equal to the local ones, folders over a cluster, workers killed on the way."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

import tiledseg as ts
from tiledseg.config import PredictConfig, PreprocessingConfig
from tiledseg.errors import ArrayError, BundleError, ModelError, SettingError
from tiledseg.io import read_image, write_image
from tiledseg.models import BundleReference
from tiledseg.predict.dask import _reason

dask, da, distributed = map(pytest.importorskip, ("dask", "dask.array", "distributed"))

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings("ignore")  # Dask's own, at the death of a worker

rng = np.random.default_rng(0)
IMAGE = rng.integers(0, 256, (700, 900, 3), np.uint8)
TILING = ts.TilingConfig(tile_size=128, overlap=32)


def mean(tiles: np.ndarray) -> np.ndarray:
    return tiles.mean(axis=-1, keepdims=True) / 255


def three(tiles: np.ndarray) -> np.ndarray:
    return tiles / 255


def test_a_masked_dask_array_is_refused() -> None:
    masked = da.ma.masked_greater(da.from_array(IMAGE, chunks=300), 200)
    for out in (None, np.zeros((700, 900, 1), np.float32)):
        with pytest.raises(ArrayError, match=r"masked array\. .*dask\.array\.ma\.filled"):
            ts.tiled_predict(mean, masked, TILING, out=out)
    hidden = da.from_array(IMAGE, chunks=300).map_blocks(
        lambda block: np.ma.masked_greater(block, 200), meta=np.empty((0, 0, 0), np.uint8)
    )
    with pytest.raises(ModelError, match="masked array"):
        ts.tiled_predict(mean, hidden, TILING).compute(scheduler="synchronous")


@pytest.mark.parametrize(
    ("network", "chunks"),
    [
        (mean, (700, 900, 3)),
        (three, (100, 333, 1)),
        pytest.param(three, (64, 64, 3), marks=pytest.mark.slow),
        pytest.param(three, (700, 900, 3), marks=pytest.mark.slow),
        pytest.param(mean, (100, 333, 1), marks=pytest.mark.slow),
        pytest.param(mean, (64, 64, 3), marks=pytest.mark.slow),
    ],
)
def test_a_dask_array_gives_the_map_lazily(chunks: tuple[int, ...], network: object) -> None:
    lazy = ts.tiled_predict(network, da.from_array(IMAGE, chunks=chunks), TILING)
    local = ts.tiled_predict(network, IMAGE, TILING)
    assert isinstance(lazy, da.Array)
    assert (lazy.shape, lazy.dtype) == (local.shape, local.dtype)
    np.testing.assert_allclose(lazy.compute(scheduler="threads"), local, atol=1e-6)


@pytest.mark.parametrize("pad_mode", ["reflect", "wrap", "edge", "constant", "symmetric"])
@pytest.mark.parametrize("shape", [(50, 700), (129, 131), (300, 40)])
def test_padding_at_the_end_is_that_of_a_local_run(pad_mode: str, shape: tuple[int, int]) -> None:
    image = IMAGE[: shape[0], : shape[1]]
    tiling = ts.TilingConfig(tile_size=128, overlap=32, alignment=16, pad_mode=pad_mode)
    lazy = ts.tiled_predict(mean, da.from_array(image, chunks=(40, 50, 3)), tiling)
    np.testing.assert_allclose(lazy.compute(), ts.tiled_predict(mean, image, tiling), atol=1e-6)


@pytest.mark.parametrize("output", ["mask", "labels", "uint8"])
def test_outputs_rois_and_preprocessing_hold(output: str) -> None:
    class Segmenter:
        network = staticmethod(lambda tiles: np.clip(tiles * 0.2 + 0.5, 0, 1))
        preprocessing = PreprocessingConfig(mean=(0.5,), std=(0.3,), sharpen=1.0, colour="hsv", gamma=1.2)
        labels = ("a", "b", "c")
        threshold = 0.5
        tiling = TILING

    mask = np.zeros((700, 900), bool)
    mask[100:300, 200:650] = True
    options = {"roi": mask, "fill_value": 0.25, "output": output}
    lazy = ts.tiled_predict(Segmenter(), da.from_array(IMAGE, chunks=(256, 256, 3)), **options)
    found, local = lazy.compute(), ts.tiled_predict(Segmenter(), IMAGE, **options)
    assert (found.dtype, found.shape) == (local.dtype, local.shape)
    assert (found != local).mean() < 1e-4  # where the last bit of a sum lies on a border


def test_a_part_of_the_map_computes_only_its_tiles() -> None:
    seen = []

    def noted(tiles: np.ndarray) -> np.ndarray:
        seen.append(len(tiles))
        return tiles[..., :1]

    image = da.zeros((6000, 6000, 3), chunks=1000, dtype=np.uint8)
    lazy = ts.tiled_predict(noted, image, ts.TilingConfig(tile_size=512, overlap=64))
    assert len(seen) == 1  # on zeros, for the number of channels
    lazy[:100, :100].compute(scheduler="synchronous")
    assert len(seen) < 50
    assert max(lazy.chunks[0]) <= 3000


def test_the_same_graph_has_the_same_keys() -> None:
    image = da.from_array(IMAGE, chunks=300)

    def keys(network: object) -> set[str]:
        graph = dict(ts.tiled_predict(network, image, TILING).__dask_graph__())
        return {str(key) for key in graph if "tiledseg-" in str(key)}

    assert keys(mean) == keys(mean)
    assert len(keys(mean)) > 60
    assert not keys(mean) & keys(three)


def test_a_poison_tile_is_named() -> None:
    def poisoned(tiles: np.ndarray) -> np.ndarray:
        if tiles.max() > 250:
            raise ValueError("bad px")
        return tiles[..., :1]

    image = np.zeros((700, 900, 3), np.uint8)
    image[400, 500] = 255
    lazy = ts.tiled_predict(poisoned, da.from_array(image, chunks=300), TILING)
    with pytest.raises(ModelError, match=r"failed on tile \d+ at \(y, x\) = \(\d+, \d+\).*bad px"):
        lazy.compute(scheduler="synchronous")


def test_outputs_that_are_not_finite_are_an_error_of_their_tile() -> None:
    lazy = ts.tiled_predict(lambda tiles: tiles[..., :1] * np.float32("nan"), da.from_array(IMAGE), TILING)
    with pytest.raises(ModelError, match=r"NaN or infinity|finite"):
        lazy.compute()


def test_a_job_that_did_not_finish_comes_back_with_its_reason() -> None:
    class KilledWorkerError(Exception):
        pass

    KilledWorkerError.__name__ = "KilledWorker"

    class Future:
        def __init__(self, status: str, error: BaseException | None = None) -> None:
            self.status, self._error = status, error

        def exception(self) -> BaseException | None:
            return self._error

    assert _reason(Future("cancelled")) == "The cluster cancelled it."
    assert _reason(Future("error", ValueError("7 px"))) == "ValueError: 7 px"
    assert "killed the workers that tried it" in _reason(Future("error", KilledWorkerError("a")))


def test_what_cannot_be_lazy_is_refused() -> None:
    image = da.from_array(IMAGE, chunks=300)
    with pytest.raises(SettingError, match="`callback` must be left out for a Dask array"):
        ts.tiled_predict(mean, image, TILING, callback=print)

    class Scaled:
        network = staticmethod(mean)
        preprocessing = PreprocessingConfig(scale=0.5)
        labels = ("a",)
        threshold = 0.5
        tiling = TILING

    with pytest.raises(SettingError, match="Pass `out`"):
        ts.tiled_predict(Scaled(), image)
    out = np.zeros((700, 900, 1), np.float32)
    ts.tiled_predict(mean, image, TILING, out=out)
    np.testing.assert_allclose(out, ts.tiled_predict(mean, IMAGE, TILING), atol=1e-6)


FORKED = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
"""How a worker starts: where it can be, from a process that has loaded Dask once for all."""


@pytest.fixture(scope="module")
def client() -> Iterator[distributed.Client]:
    with (
        dask.config.set(
            {
                "distributed.scheduler.allowed-failures": 3,
                "distributed.comm.timeouts.connect": "60s",
                "distributed.worker.multiprocessing-method": FORKED,
            }
        ),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def killing(folder: Path, kills: int, seconds: float = 0.0) -> object:
    """Make a network that kills its own worker a number of times, all workers counted."""

    here = os.getpid()  # where the number of channels is found out, on zeros

    def network(tiles: np.ndarray) -> np.ndarray:
        for place in range(kills if os.getpid() != here else 0):
            try:
                os.close(os.open(folder / f"{place}", os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                continue
            time.sleep(0.3)
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(seconds)
        return tiles.mean(axis=-1, keepdims=True) / 255

    return network


@pytest.mark.slow
@pytest.mark.parametrize("kills", [1, 3])
def test_killed_workers_change_nothing(kills: int, client: distributed.Client, tmp_path: Path) -> None:
    image = da.from_array(IMAGE, chunks=(200, 300, 3))
    straight = ts.tiled_predict(mean, image, TILING).compute(scheduler="synchronous")
    lazy = ts.tiled_predict(killing(tmp_path, kills), image, TILING)
    np.testing.assert_array_equal(client.compute(lazy).result(), straight)
    assert len(list(tmp_path.iterdir())) == kills


@pytest.mark.parametrize("kills", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_a_folder_is_spread_and_killed_workers_change_nothing(
    kills: int, client: distributed.Client, tmp_path: Path
) -> None:
    for place in range(5):
        write_image(tmp_path / "in" / f"{place}.png", IMAGE[: 200 + 40 * place, :300])
    (tmp_path / "in" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    (tmp_path / "kills").mkdir()
    network, write = killing(tmp_path / "kills", kills), {"write": ("mask", "labels", "objects", "geojson")}
    result = ts.predict_files(network, tmp_path / "in", tmp_path / "out", write, tiling=TILING, client=client)
    assert str(result).splitlines()[0] == "5 predicted, 0 skipped, 1 failed"
    assert result.failed[0].path.name == "broken.png"
    assert len(list((tmp_path / "kills").iterdir())) == kills
    files = sorted((tmp_path / "in").glob("[0-9]*"))
    ts.predict_files(mean, files, tmp_path / "local", write, tiling=TILING)
    for place in range(5):
        for name in (f"masks/{place}.png", f"labels/{place}.ome.tif"):
            a, b = (read_image(tmp_path / where / name) for where in ("out", "local"))
            np.testing.assert_array_equal(a, b)
        for name in (f"objects/{place}.csv", f"geojson/{place}.geojson"):
            assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "local" / name).read_bytes()


@pytest.mark.slow
def test_a_file_that_kills_every_worker_is_named_and_stops_no_other(
    client: distributed.Client, tmp_path: Path
) -> None:
    def fatal(tiles: np.ndarray) -> np.ndarray:
        if (tiles == 255).all(axis=-1).any():
            os.kill(os.getpid(), signal.SIGKILL)
        return tiles[..., :1] / 255

    for name, value in (("good", 9), ("fatal", 255)):
        write_image(tmp_path / "in" / f"{name}.png", np.full((100, 100, 3), value, np.uint8))
    result = ts.predict_files(fatal, tmp_path / "in", tmp_path / "out", tiling=TILING, client=client)
    assert [one.path.name for one in result.failed] == ["fatal.png"]
    assert "fatal.png" in (result.failed[0].error or "")
    assert "It killed the workers" in (result.failed[0].error or "")
    assert (tmp_path / "out" / "masks" / "good.png").exists()


@pytest.mark.slow
def test_a_bundle_is_loaded_by_its_digest_on_each_worker(client: distributed.Client, tmp_path: Path) -> None:
    settings = ts.UNetConfig(input_shape=(None, None, 3), levels=2, base_filters=4, base_kernel=3)
    segmenter = ts.Segmenter(
        network=ts.build_model(settings), architecture=settings, labels=("cell",), tiling=TILING
    )
    segmenter.save(tmp_path / "bundle")
    reference = BundleReference.of(tmp_path / "bundle")
    write_image(tmp_path / "in" / "a.png", IMAGE)
    result = ts.predict_files(
        reference, tmp_path / "in", tmp_path / "out", PredictConfig(write=("mask",)), client=client
    )
    assert not result.failed, str(result)
    expected = ts.tiled_predict(segmenter, IMAGE, output="mask") * 255
    assert (read_image(tmp_path / "out" / "masks" / "a.png") != expected).mean() < 1e-3
    lazy = ts.tiled_predict(reference, da.from_array(IMAGE, chunks=300))
    local = ts.tiled_predict(segmenter, IMAGE)
    np.testing.assert_allclose(client.compute(lazy).result(), local, atol=1e-5)
    segmenter.changed(threshold=0.7).save(tmp_path / "bundle", overwrite=True)
    with pytest.raises(BundleError, match="must be the bundle with digest"):
        BundleReference(str(tmp_path / "bundle"), "0" * 64).load()
    with pytest.raises(SettingError, match="BundleReference"):
        ts.predict_files(segmenter, tmp_path / "in", tmp_path / "out2", client=client)
