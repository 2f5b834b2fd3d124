"""Maps that are written while they are computed: whole or not at all, resumed after a kill."""

from __future__ import annotations

import os
import resource
import signal
import textwrap
import threading
import time
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile
import warm_python

try:
    import ome_types
except ModuleNotFoundError:  # a test that needs it is skipped
    ome_types = ModuleType("ome_types")

try:
    import zarr
except ModuleNotFoundError:  # a test that needs it is skipped
    zarr = ModuleType("zarr")

from tiledseg.errors import ArrayError, FileError, SettingError, TiledSegError
from tiledseg.io import ImageSink, PixelSize, create_image, open_image, write_image
from tiledseg.objects import ObjectsSink

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from subprocess import CompletedProcess

rng = np.random.default_rng(0)
LABELS = (rng.random((30, 43)) > 0.5).astype(np.uint8).repeat(30, 0).repeat(30, 1)[:870, :1267]
PROBS = rng.random((700, 1100, 2), np.float32)
FORMATS = ["map.ome.tif", "map.ome.zarr", "map.npy"]


def write(path: Path, pixels: np.ndarray, step: tuple[int, int] = (300, 4096), **options: object) -> None:
    with create_image(path, pixels.shape, pixels.dtype, **options) as out:
        fill(out, pixels, step)


def fill(out: ImageSink, pixels: np.ndarray, step: tuple[int, int]) -> None:
    for x in range(0, pixels.shape[1], step[1]):
        for y in range(0, pixels.shape[0], step[0]):
            out[y : y + step[0], x : x + step[1]] = pixels[y : y + step[0], x : x + step[1]]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    ("pixels", "step"),
    [
        pytest.param(LABELS, (300, 4096), id="labels-rows"),
        pytest.param(LABELS, (512, 1024), id="labels-tiles"),
        pytest.param(LABELS, (97, 333), id="labels-any", marks=pytest.mark.slow),
        pytest.param(PROBS, (300, 4096), id="probs-rows", marks=pytest.mark.slow),
        pytest.param(PROBS, (512, 1024), id="probs-tiles", marks=pytest.mark.slow),
        pytest.param(PROBS, (97, 333), id="probs-any"),
    ],
)
def test_a_map_is_read_back_as_written(
    name: str, step: tuple[int, int], pixels: np.ndarray, tmp_path: Path
) -> None:
    write(tmp_path / name, pixels, step, labels=pixels.ndim == 2)
    with open_image(tmp_path / name) as image:
        np.testing.assert_array_equal(np.asarray(image), pixels)
    assert os.listdir(tmp_path) == [name]  # noqa: PTH208


@pytest.mark.parametrize("name", FORMATS[:2])
def test_smaller_levels_sample_labels_and_average_probabilities(name: str, tmp_path: Path) -> None:
    write(tmp_path / name, LABELS, labels=True)
    for level in (1, 2):
        with open_image(tmp_path / name, level=level) as image:
            np.testing.assert_array_equal(np.asarray(image), LABELS[:: 2**level, :: 2**level])
    write(tmp_path / f"probs-{name}", PROBS)
    with open_image(tmp_path / f"probs-{name}", level=1) as image:
        mean = PROBS.reshape(350, 2, 550, 2, 2).mean(axis=(1, 3))
        np.testing.assert_allclose(np.asarray(image), mean, atol=1e-6)
        assert image.levels == ((700, 1100), (350, 550), (175, 275))


@pytest.mark.parametrize("name", FORMATS[:2])
def test_the_order_of_regions_does_not_change_a_level(name: str, tmp_path: Path) -> None:
    write(tmp_path / f"a-{name}", PROBS, (700, 1100))
    write(tmp_path / f"b-{name}", PROBS, (97, 333))
    for level in range(3):
        with (
            open_image(tmp_path / f"a-{name}", level=level) as a,
            open_image(tmp_path / f"b-{name}", level=level) as b,
        ):
            np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def test_an_ome_tiff_is_valid_for_other_programs(tmp_path: Path) -> None:
    path = tmp_path / "map.ome.tif"
    notes = {"model": "b\x01undle <é>", "tiledseg": "1"}
    write(path, PROBS, pixel_size=PixelSize(0.5, 0.25), names=("cell", "ring"), provenance=notes)
    ome = ome_types.from_tiff(path, validate=True)
    pixels = ome.images[0].pixels
    assert (pixels.size_x, pixels.size_y, pixels.size_c, pixels.type.value) == (1100, 700, 2, "float")
    assert (pixels.physical_size_x, pixels.physical_size_y) == (0.25, 0.5)
    assert [channel.name for channel in pixels.channels] == ["cell", "ring"]
    found = ome.structured_annotations[0].value
    assert dict(found) == {"model": "b\\x01undle <é>", "tiledseg": "1"}
    with open_image(path, level=1) as image:
        assert image.pixel_size == PixelSize(1.0, 0.5)
    with tifffile.TiffFile(path) as tiff:
        assert tiff.is_ome
        assert not tiff.is_bigtiff
        series = tiff.series[0]
        assert series.axes == "CYX"
        assert [level.shape for level in series.levels] == [(2, 700, 1100), (2, 350, 550), (2, 175, 275)]
        np.testing.assert_array_equal(series.asarray(), np.moveaxis(PROBS, -1, 0))
        assert tiff.pages.first.is_tiled
        assert [int(page.subfiletype) for page in tiff.pages.first.pages] == [1, 1]


def test_an_unknown_px_size_is_written_as_unknown(tmp_path: Path) -> None:
    write(tmp_path / "map.ome.tif", LABELS, labels=True)
    ome = ome_types.from_tiff(tmp_path / "map.ome.tif", validate=True)
    assert ome.images[0].pixels.physical_size_x is None
    assert dict(ome.structured_annotations[0].value) == {"pixel size": "unknown"}
    with open_image(tmp_path / "map.ome.tif") as image:
        assert image.pixel_size is None
    write(tmp_path / "map.ome.zarr", LABELS, labels=True)
    group = zarr.open_group(tmp_path / "map.ome.zarr", mode="r")
    assert all("unit" not in axis for axis in group.attrs["ome"]["multiscales"][0]["axes"])
    with open_image(tmp_path / "map.ome.zarr") as image:
        assert image.pixel_size is None


def test_a_map_with_px_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"must be written whole; got .* tiles of 512 px missing"):  # noqa: SIM117
        with create_image(tmp_path / "a.ome.tif", (70_000, 70_000), np.uint8, labels=True) as out:
            out[0:512, 0:512] = np.ones((512, 512), np.uint8)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_long_map_is_a_bigtiff(tmp_path: Path) -> None:
    pixels = np.zeros((2_100_000, 1), np.float32)
    pixels[2_000_003] = 1
    write(tmp_path / "b.ome.tif", pixels, (2**20, 1))
    with tifffile.TiffFile(tmp_path / "b.ome.tif") as tiff:
        assert tiff.is_bigtiff
    with open_image(tmp_path / "b.ome.tif") as image:
        np.testing.assert_array_equal(np.asarray(image), pixels)


def test_ome_zarr_has_axes_and_scales(tmp_path: Path) -> None:
    write(tmp_path / "map.ome.zarr", PROBS, pixel_size=PixelSize(0.5, 0.25), names=("a", "b"))
    group = zarr.open_group(tmp_path / "map.ome.zarr", mode="r")
    ome = group.attrs["ome"]
    assert ome["version"] == "0.5"
    image = ome["multiscales"][0]
    assert [axis["name"] for axis in image["axes"]] == ["c", "y", "x"]
    scales = [one["coordinateTransformations"][0]["scale"] for one in image["datasets"]]
    assert scales == [[1.0, 0.5, 0.25], [1.0, 1.0, 0.5], [1.0, 2.0, 1.0]]
    assert group["0"].chunks == (1, 512, 512)
    assert group["0"].metadata.dimension_names == ("c", "y", "x")


@pytest.mark.parametrize("name", FORMATS)
def test_an_error_leaves_the_old_map(name: str, tmp_path: Path) -> None:
    write(tmp_path / name, LABELS, labels=True)
    with pytest.raises(ArrayError), create_image(tmp_path / name, LABELS.shape, np.uint8) as out:
        fill(out, np.concatenate([LABELS, LABELS]), (300, 4096))
    with open_image(tmp_path / name) as image:
        np.testing.assert_array_equal(np.asarray(image), LABELS)
    assert os.listdir(tmp_path) == [name]  # noqa: PTH208
    write(tmp_path / name, 1 - LABELS, labels=True)
    with open_image(tmp_path / name) as image:
        np.testing.assert_array_equal(np.asarray(image), 1 - LABELS)


@pytest.mark.parametrize("name", ["map.ome.tif", "map.npy"])
def test_a_full_disk_is_an_error_and_leaves_nothing(name: str, tmp_path: Path) -> None:
    noise = rng.integers(0, 256, (1500, 1500), np.uint8)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[1]))
    try:
        with pytest.raises(FileError, match=r"map.* must be writable; got File too large"):
            write(tmp_path / name, noise)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", FORMATS)
def test_every_failing_write_leaves_the_old_map(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = LABELS[:600, :600]
    write(tmp_path / name, labels, labels=True)
    calls = {"left": 0}

    def failing(real: object) -> object:
        def call(*args: object, **kwargs: object) -> object:
            calls["left"] -= 1
            if calls["left"] == 0:
                raise OSError(28, "No space left on device")
            return real(*args, **kwargs)

        return call

    for owner, function in ((os, "write"), (os, "fsync"), (os, "replace"), (os, "ftruncate")):
        monkeypatch.setattr(owner, function, failing(getattr(owner, function)))
    failures = 0
    for count in [*range(1, 60), *range(60, 20_000, 997)]:
        calls["left"] = count
        try:
            write(tmp_path / name, 1 - labels, labels=True)
        except FileError:
            failures += 1
        else:
            break
        with open_image(tmp_path / name) as image:
            found = np.asarray(image)
        assert (found == labels).all() or (found == 1 - labels).all()
    assert failures >= (1 if "zarr" in name else 10)
    assert calls["left"] > 0
    assert [one for one in os.listdir(tmp_path) if one != name] == []  # noqa: PTH208


def test_a_failed_write_to_a_zarr_leaves_no_other_write_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = {"left": 0, "running": 0}

    def slow(real: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object) -> object:
            state["left"] -= 1
            if state["left"] == 0:
                raise OSError(28, "No space left on device")
            state["running"] += 1
            try:
                if threading.current_thread() is not threading.main_thread():
                    time.sleep(0.01)
                return real(*args)
            finally:
                state["running"] -= 1

        return call

    for function in ("link", "replace"):  # the calls by which zarr names its files
        monkeypatch.setattr(os, function, slow(getattr(os, function)))
    failures = 0
    for count in range(1, 16):
        state["left"] = count
        try:
            write(tmp_path / "map.ome.zarr", PROBS[:600, :600])
        except FileError:
            failures += 1
            assert state["running"] == 0
        assert [one for one in os.listdir(tmp_path) if one.startswith(".")] == []  # noqa: PTH208
    assert failures >= 6


WRITER = """
import os, signal, sys
import numpy as np
from tiledseg.io import create_image
path, seed, kill_at = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
pixels = np.random.default_rng(seed).integers(0, 256, (2200, 1700), np.uint8)
count = 0
with create_image(path, pixels.shape, np.uint8, fingerprint={"seed": seed}) as out:
    print("resumed", out.resumed, out.finished_rows(0, 1700), flush=True)
    start = out.finished_rows(0, 1700)
    for y in range(start, 2200, 200):
        for x in range(0, 1700, 400):
            out[y : y + 200, x : x + 400] = pixels[y : y + 200, x : x + 400]
            count += 1
            if count == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
"""


def run_writer(path: Path, seed: int, kill_at: int) -> CompletedProcess[str]:
    done = warm_python.run(textwrap.dedent(WRITER), path, seed, kill_at)
    assert "not installed" not in done.stderr, done.stderr  # then the test is skipped
    return done


@pytest.mark.parametrize("name", FORMATS)
def test_after_a_kill_the_next_run_resumes(name: str, tmp_path: Path) -> None:
    for kill_at in (30, 25, 3):
        killed = run_writer(tmp_path / name, 1, kill_at)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert not (tmp_path / name).exists()
    refused = run_writer(tmp_path / name, 2, 0)
    assert refused.returncode == 1
    assert "another `seed`: `seed` 1 -> 2" in refused.stderr
    done = run_writer(tmp_path / name, 1, 0)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("resumed True ")
    assert int(done.stdout.split()[2]) >= 512
    write(
        tmp_path / f"b-{name}", np.random.default_rng(1).integers(0, 256, (2200, 1700), np.uint8), (200, 400)
    )
    for level in range(1 if "npy" in name else 4):
        with (
            open_image(tmp_path / name, level=level) as a,
            open_image(tmp_path / f"b-{name}", level=level) as b,
        ):
            np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
    assert sorted(os.listdir(tmp_path)) == sorted([name, f"b-{name}"])  # noqa: PTH208


@pytest.mark.parametrize("name", FORMATS[:2])
def test_a_damaged_tile_of_an_interrupted_map_is_written_again(name: str, tmp_path: Path) -> None:
    run_writer(tmp_path / name, 1, 30)
    part = tmp_path / f".{name}.tiledseg-part"
    if part.is_dir():
        chunk = part / "0" / "c" / "0" / "0"
        chunk.write_bytes(chunk.read_bytes()[:-9] + b"rubbish!!")
    else:
        with part.open("r+b") as file:
            file.seek(1000)
            file.write(b"rubbish")
    done = run_writer(tmp_path / name, 1, 0)
    assert done.stdout.split()[2] == "0"
    with open_image(tmp_path / name) as image:
        expected = np.random.default_rng(1).integers(0, 256, (2200, 1700), np.uint8)
        np.testing.assert_array_equal(np.asarray(image), expected)


def test_a_second_run_is_refused_with_the_process_id_of_the_first(tmp_path: Path) -> None:
    path = tmp_path / "map.ome.tif"
    with create_image(path, (20, 20), np.uint8, fingerprint={}) as out:
        out[:] = np.ones((20, 20), np.uint8)
        second = create_image(path, (20, 20), np.uint8, fingerprint={})
        with pytest.raises(FileError, match=f"in use by a run in process {os.getpid()}"):
            second.__enter__()


def test_targets_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="suffix"):
        create_image(tmp_path / "a.png", (4, 4), np.uint8)
    with pytest.raises(SettingError, match="`dtype` must be one of"):
        create_image(tmp_path / "a.npy", (4, 4), np.float16)
    with pytest.raises(SettingError, match="`shape` must be"):
        create_image(tmp_path / "a.npy", (4,), np.uint8)
    (tmp_path / "folder.ome.zarr").mkdir()
    (tmp_path / "folder.ome.zarr" / "mine.txt").write_text("mine")
    with pytest.raises(FileError, match="a folder that is not a zarr"):
        write(tmp_path / "folder.ome.zarr", LABELS)
    assert (tmp_path / "folder.ome.zarr" / "mine.txt").read_text() == "mine"
    (tmp_path / "file").write_text("x")
    with pytest.raises(TiledSegError, match="must be writable"):
        write(tmp_path / "file" / "a.npy", LABELS)
    with pytest.raises(FileError, match="still being written"):  # noqa: SIM117
        with create_image(tmp_path / "b.ome.zarr", (4, 4), np.uint8):
            open_image(next(one for one in tmp_path.iterdir() if one.name.startswith(".tiledseg")))


def test_a_px_size_may_be_numbers(tmp_path):
    with create_image(tmp_path / "a.ome.tif", (4, 4), np.uint8, pixel_size=(0.5, 0.25)) as out:
        out[0:4] = np.zeros((4, 4), np.uint8)
    write_image(tmp_path / "b.tif", np.zeros((4, 4), np.uint8), pixel_size=0.5)
    assert str(open_image(tmp_path / "a.ome.tif").pixel_size) == "0.5 x 0.25 µm"
    assert str(open_image(tmp_path / "b.tif").pixel_size) == "0.5 µm"
    with pytest.raises(SettingError, match=r"pixel_size.*above 0"):
        create_image(tmp_path / "c.ome.tif", (4, 4), np.uint8, pixel_size=0)


@pytest.mark.parametrize("values", [[300], [-1], [0.5], [2**40]])
def test_values_that_the_dtype_would_change_are_refused(values, tmp_path):
    block = np.full((4, 4), values)
    with pytest.raises(ArrayError, match=r"`pixels` must .*uint8.*Convert them first"):  # noqa: SIM117
        with create_image(tmp_path / "a.npy", (4, 4), np.uint8) as sink:
            sink[0:4] = block
    with pytest.raises(ArrayError, match=r"`px` must .*uint8.*Convert them first"):
        ObjectsSink((4, 4), np.uint8)[0:4] = block
    assert not list(tmp_path.iterdir())


def test_px_of_another_shape_or_with_a_mask_are_refused(tmp_path):
    with pytest.raises(ArrayError, match=r"have shape \(2, 3\); got \(3, 2\)"):
        ObjectsSink((4, 3), np.uint8)[0:2] = np.ones((3, 2), np.uint8)
    with pytest.raises(ArrayError, match="masked array"):  # noqa: SIM117
        with create_image(tmp_path / "a.npy", (4, 4), np.uint8) as sink:
            sink[0:4] = np.ma.masked_array(np.ones((4, 4), np.uint8), True)


def test_numbers_that_a_dtype_holds_are_stored(tmp_path):
    with create_image(tmp_path / "a.npy", (2, 2), np.uint16) as sink:
        sink[0:2] = np.array([[0, 65535], [1, 2]])
    assert np.load(tmp_path / "a.npy").tolist() == [[0, 65535], [1, 2]]
