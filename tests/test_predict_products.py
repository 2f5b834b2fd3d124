"""predict_files from large files to large files: streamed, resumed after a kill."""

from __future__ import annotations

import os
import signal
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile
import warm_python

try:
    import zarr
except ModuleNotFoundError:  # tests that need them are skipped
    zarr = ModuleType("zarr")

import tiledseg as ts
from tiledseg.config import PredictConfig, PreprocessingConfig
from tiledseg.errors import FileError, SettingError
from tiledseg.io import PixelSize, open_image, read_image

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from subprocess import CompletedProcess

TILING = ts.TilingConfig(tile_size=256, overlap=64)


@cache  # not for each process that only collects these tests
def wide() -> np.ndarray:
    return (
        np.random.default_rng(0).integers(0, 256, (14, 60, 3), np.uint8).repeat(35, 0).repeat(90, 1)[:, :5300]
    )


@cache
def tall() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (90, 10, 3), np.uint8).repeat(40, 0).repeat(80, 1)


@pytest.fixture(scope="module", autouse=True)
def let_go() -> Iterator[None]:
    yield
    wide.cache_clear()
    tall.cache_clear()


def red(tiles: np.ndarray) -> np.ndarray:
    return tiles[..., :1] / 255


def two(tiles: np.ndarray) -> np.ndarray:
    return np.stack([tiles[..., 0], 255 - tiles[..., 0]], axis=-1) / 255


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slides")
    with tifffile.TiffWriter(folder / "a.ome.tif", bigtiff=True, ome=True) as writer:
        options = {"tile": (256, 256), "photometric": "rgb", "compression": "zlib"}
        size = {
            "PhysicalSizeX": 0.25,
            "PhysicalSizeXUnit": "µm",
            "PhysicalSizeY": 0.5,
            "PhysicalSizeYUnit": "µm",
        }
        writer.write(wide(), subifds=1, metadata={"axes": "YXS", **size}, **options)
        writer.write(wide()[::2, ::2], subfiletype=1, **options)
    array = zarr.create_array(folder / "b.zarr", shape=wide().shape, dtype="u1", chunks=(256, 256, 3))
    array[:] = wide()
    return folder


def read(path: Path) -> np.ndarray:
    with open_image(path) as image:
        return np.asarray(image)


def furthest(found: np.ndarray, wanted: np.ndarray) -> float:
    """Compare row by row, which takes no copy of the map."""
    rows = zip(found.reshape(wanted.shape), wanted, strict=True)
    return float(max(np.abs(one - other).max() for one, other in rows))


@pytest.mark.parametrize(
    ("form", "suffix", "network"),
    [
        ("ome-tiff", ".ome.tif", two),
        ("ome-zarr", ".ome.zarr", red),
        pytest.param("npy", ".npy", two, marks=pytest.mark.slow),
    ],
)
def test_streamed_maps_are_those_of_the_whole_image(
    form: str, suffix: str, network: object, slides: Path, tmp_path: Path
) -> None:
    config = PredictConfig(
        write=("mask", "probs"), mask_format=form, probs_format=form, probs_dtype="float32", batch_size=4
    )
    result = ts.predict_files(network, slides, tmp_path, config, tiling=TILING)
    assert str(result) == "2 predicted, 0 skipped, 0 failed"
    probs = ts.tiled_predict(network, wide(), TILING)
    labels = 255 * (probs[..., 0] >= 0.5) if network is red else probs.argmax(axis=-1).astype(np.uint8)
    for name in "ab":
        assert furthest(read(tmp_path / "probs" / f"{name}{suffix}"), probs) <= 1e-6
        wrong = read(tmp_path / "masks" / f"{name}{suffix}") != labels
        assert wrong.mean() < 1e-5  # the last bit of a sum may differ between panels and rows
    if form != "npy":
        with open_image(tmp_path / "masks" / f"a{suffix}") as mask:
            assert mask.pixel_size == PixelSize(0.5, 0.25)


def test_streamed_and_whole_files_come_from_one_run(slides: Path, tmp_path: Path) -> None:
    config = PredictConfig(write=("mask", "probs", "overlay"), probs_format="ome-tiff")
    ts.predict_files(red, slides / "a.ome.tif", tmp_path, config, tiling=TILING)
    probs = read(tmp_path / "probs" / "a.ome.tif")
    np.testing.assert_array_equal(read_image(tmp_path / "masks" / "a.png"), np.where(probs >= 0.5, 255, 0))
    assert read_image(tmp_path / "overlays" / "a.png").shape == wide().shape


def test_level_and_channels_are_chosen(slides: Path, tmp_path: Path) -> None:
    config = PredictConfig(level=1, channels=(2, 0), mask_format="ome-tiff")
    ts.predict_files(red, slides / "a.ome.tif", tmp_path, config, tiling=TILING)
    expected = ts.tiled_predict(red, wide()[::2, ::2, [2, 0]], TILING, output="mask") * 255
    assert (read(tmp_path / "masks" / "a.ome.tif") != expected).mean() < 1e-5


def test_a_segmenter_with_scale_streams_too(slides: Path, tmp_path: Path) -> None:
    class Segmenter:
        network = staticmethod(lambda tiles: tiles[..., :1])
        preprocessing = PreprocessingConfig(scale=0.5)
        labels = ("red",)
        threshold = 0.4
        tiling = TILING

    config = PredictConfig(write=("probs",), probs_format="ome-zarr")
    ts.predict_files(Segmenter(), slides / "b.zarr", tmp_path, config)
    np.testing.assert_allclose(
        read(tmp_path / "probs" / "b.ome.zarr"), ts.tiled_predict(Segmenter(), wide())[..., 0], atol=1e-6
    )


def test_settings_that_do_not_fit_are_refused() -> None:
    with pytest.raises(SettingError, match="`probs_dtype` must be float32 with probs_format=ome-tiff"):
        PredictConfig(write=("probs",), probs_format="ome-tiff", probs_dtype="float16")
    with pytest.raises(SettingError, match=r"`resume` .* got mask as png"):
        PredictConfig(resume=True)


def test_a_callable_without_a_fingerprint_cannot_resume(slides: Path, tmp_path: Path) -> None:
    config = PredictConfig(mask_format="ome-tiff", resume=True)
    with pytest.raises(SettingError, match="attribute `fingerprint`"):
        ts.predict_files(red, slides / "a.ome.tif", tmp_path, config, tiling=TILING)


SCRIPT = """
import os, signal, sys
from pathlib import Path
import numpy as np
import tiledseg as ts
from tiledseg.config import PredictConfig

source, output, kill_at, version, form, *awaited = sys.argv[1:]
calls = 0

def network(tiles):
    global calls
    calls += 1
    if any(Path(output).glob(awaited[0])) if awaited else calls == int(kill_at):
        os.kill(os.getpid(), signal.SIGKILL)
    return tiles[..., :1] / 255

network.fingerprint = version
formats = {"mask_format": form, "probs_format": form, "probs_dtype": "float32"}
config = PredictConfig(write=("mask", "probs"), resume=True, batch_size=4, **formats)  # not by free memory
result = ts.predict_files(network, source, output, config, tiling=ts.TilingConfig(tile_size=256, overlap=64))
print(result)
print("calls", calls)
"""


def run(*arguments: object) -> CompletedProcess[str]:
    return warm_python.run(SCRIPT, *arguments)


@pytest.mark.parametrize("form", ["ome-tiff", "ome-zarr"])
def test_killed_predictions_are_resumed_bit_for_bit(form: str, tmp_path: Path) -> None:
    if form == "ome-zarr":
        pytest.importorskip("zarr")
    source = tmp_path / "a.tif"
    tifffile.imwrite(source, tall(), tile=(256, 256), photometric="rgb")
    straight = run(source, tmp_path / "straight", 0, "v1", form)
    total = int(straight.stdout.split()[-1])
    for kill_at in (total * 2 // 3, total // 2):
        killed = run(source, tmp_path / "out", kill_at, "v1", form)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
    other = run(source, tmp_path / "out", 0, "v2", form)
    assert "another model: model v1 -> v2" in other.stderr
    done = run(source, tmp_path / "out", 0, "v1", form)
    assert "1 predicted, 0 skipped, 0 failed" in done.stdout, done.stdout
    assert int(done.stdout.split()[-1]) < total - 2
    suffix = form.replace("-", ".").replace("tiff", "tif")
    for what in ("masks", "probs"):
        a, b = (read(tmp_path / run_ / what / f"a.{suffix}") for run_ in ("straight", "out"))
        np.testing.assert_array_equal(a, b)
        assert os.listdir(tmp_path / "out" / what) == [f"a.{suffix}"]  # noqa: PTH208


def test_an_image_that_changed_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", tall())
    assert run(tmp_path / "a.npy", tmp_path / "out", 15, "v1", "npy").returncode == -signal.SIGKILL
    np.save(tmp_path / "a.npy", tall()[:, ::-1].copy())
    assert "another image contents" in run(tmp_path / "a.npy", tmp_path / "out", 0, "v1", "npy").stdout


def test_a_killed_folder_is_resumed_and_its_finished_images_are_skipped(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in "abc":
        tifffile.imwrite(tmp_path / "in" / f"{name}.tif", tall()[:600], photometric="rgb")
    run(tmp_path / "in", tmp_path / "straight", 0, "v1", "npy")
    killed = run(tmp_path / "in", tmp_path / "out", 0, "v1", "npy", "masks/[!.]*")  # once there is a mask
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    masks = tmp_path / "out" / "masks"
    finished = {path.name: path.stat().st_mtime_ns for path in masks.glob("[!.]*")}
    assert 0 < len(finished) < 3
    done = run(tmp_path / "in", tmp_path / "out", 0, "v1", "npy")
    assert f"{3 - len(finished)} predicted, {len(finished)} skipped, 0 failed" in done.stdout, done.stderr
    assert {name: (masks / name).stat().st_mtime_ns for name in finished} == finished
    for name in "abc":
        wanted = np.load(tmp_path / "straight" / "masks" / f"{name}.npy")
        np.testing.assert_array_equal(np.load(masks / f"{name}.npy"), wanted)
    assert "0 predicted, 3 skipped, 0 failed" in run(tmp_path / "in", tmp_path / "out", 0, "v1", "npy").stdout
    assert "another model: model v1 -> v2" in run(tmp_path / "in", tmp_path / "out", 0, "v2", "npy").stderr
    tifffile.imwrite(tmp_path / "in" / "a.tif", tall()[:500], photometric="rgb")
    assert "changed since" in run(tmp_path / "in", tmp_path / "out", 0, "v1", "npy").stderr


def test_results_without_a_record_are_not_resumed(tmp_path: Path) -> None:
    def named(tiles: np.ndarray) -> np.ndarray:
        return red(tiles)

    named.fingerprint = "v1"  # type: ignore[attr-defined]
    np.save(tmp_path / "a.npy", tall()[:100])
    plain = PredictConfig(mask_format="npy")
    ts.predict_files(named, tmp_path / "a.npy", tmp_path / "out", plain, tiling=TILING)
    again = plain.changed(resume=True)
    assert (
        ts.predict_files(named, tmp_path / "a.npy", tmp_path / "out", again, tiling=TILING)
        .outcomes[0]
        .skipped
    )
    (tmp_path / "out" / ".tiledseg-resume.json").unlink()
    with pytest.raises(FileError, match=r"that its record lists; got others, the first .*a\.npy"):
        ts.predict_files(named, tmp_path / "a.npy", tmp_path / "out", again, tiling=TILING)
