"""Writing: files read back, refusals, and files that are whole or unchanged after any failure."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, PngImagePlugin

from tiledseg._storage import atomic_write, check_writable, write_bytes, write_text
from tiledseg.errors import ArrayError, FileError, SettingError
from tiledseg.io import (
    image_shape,
    level_scale_of,
    read_image,
    read_mask,
    read_probs,
    write_image,
    write_mask,
    write_probs,
)

ROOT = Path(__file__).parents[1]
as_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere"
)

shapes = st.one_of(
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.tuples(st.integers(1, 40), st.integers(1, 40), st.just(3)),
)
images = st.sampled_from([np.uint8, np.uint16]).flatmap(lambda dtype: hnp.arrays(dtype, shapes))


@settings(max_examples=40, deadline=None)
@given(images, st.sampled_from([".png", ".tif", ".TIFF"]))
def test_images_are_read_back_as_written(tmp_path_factory, image, suffix):
    path = tmp_path_factory.mktemp("images") / f"image{suffix}"
    write_image(path, image)
    read = read_image(path)
    assert read.dtype == image.dtype
    np.testing.assert_array_equal(read, image)
    assert image_shape(path) == image.shape


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_the_memory_layout_of_an_array_does_not_matter(tmp_path, suffix):
    image = np.random.default_rng(0).integers(0, 2**16, (9, 12, 3), np.uint16)
    frozen = image.copy()
    frozen.flags.writeable = False
    layouts = [
        np.asfortranarray(image),
        image[::-1, ::-1][::-1, ::-1],
        image.astype(">u2"),
        frozen,
        image.tolist(),
    ]
    for layout in layouts[:4]:
        write_image(tmp_path / f"a{suffix}", layout)
        np.testing.assert_array_equal(read_image(tmp_path / f"a{suffix}"), image)
    with pytest.raises(ArrayError, match="uint8 or uint16; got int64"):
        write_image(tmp_path / f"a{suffix}", layouts[4])


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64])
def test_masks_are_read_back_as_written(tmp_path, suffix, dtype):
    mask = np.random.default_rng(1).integers(0, 2, (9, 12)).astype(dtype)
    path = tmp_path / f"mask{suffix}"
    write_mask(path, mask)
    np.testing.assert_array_equal(read_image(path), mask * 255)
    np.testing.assert_array_equal(read_mask(path), mask)
    write_mask(path, mask, foreground=None)
    np.testing.assert_array_equal(read_mask(path, None), mask)


def test_labels_are_read_back_as_written(tmp_path):
    labels = np.arange(256).reshape(16, 16)
    write_mask(tmp_path / "labels.png", labels, foreground=None)
    np.testing.assert_array_equal(read_mask(tmp_path / "labels.png", None), labels)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize(
    "shape", [(9, 12), (9, 12, 1), (9, 12, 2), (9, 12, 3), (9, 12, 4), (9, 12, 7), (1, 1, 5)]
)
def test_probabilities_are_read_back_as_written(tmp_path, shape, dtype):
    probs = np.random.default_rng(2).random(shape, np.float32)
    path = tmp_path / "probs.tif"
    write_probs(path, probs, dtype)
    read = read_probs(path)
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, probs.astype(dtype).reshape(*shape[:2], -1))
    assert np.abs(read - probs.reshape(read.shape)).max() <= (0.00025 if dtype == "float16" else 0)
    if read.shape[2] in {1, 3}:
        np.testing.assert_array_equal(read_image(path).reshape(read.shape), read)


@pytest.mark.parametrize(
    ("value", "dtype"), [(np.nan, "float32"), (np.inf, "float32"), (1e6, "float16"), (-np.inf, "float16")]
)
def test_probabilities_that_are_not_finite_are_refused(tmp_path, value, dtype):
    probs = np.zeros((3, 4, 2), np.float32)
    probs[1, 2, 1] = value
    with pytest.raises(ArrayError, match=rf"finite as {dtype}; got 1 .* at \(1, 2, 1\)"):
        write_probs(tmp_path / "probs.tif", probs, dtype)
    assert list(tmp_path.iterdir()) == []


def test_probabilities_are_floats_and_a_png_has_a_largest_side(tmp_path):
    for values in (np.zeros((3, 4), int), np.zeros((2, 3, 4, 1), np.float32), np.zeros((0, 4), np.float32)):
        with pytest.raises(ArrayError, match=r"be floats of shape \(H, W\) or"):
            write_probs(tmp_path / "probs.tif", values)
    with pytest.raises(FileError, match=r"px along each axis as PNG; got \(1, 1048577\)"):
        write_image(tmp_path / "long.png", np.zeros((1, (1 << 20) + 1), np.uint8))


@pytest.mark.parametrize("name", ["mask.jpg", "mask.JPEG", "mask.bmp", "mask", "mask.png.exe"])
def test_the_suffix_of_a_lossy_format_is_refused(tmp_path, name):
    image = np.zeros((3, 4), np.uint8)
    for write in (write_mask, write_image):
        with pytest.raises(FileError, match=r"lossless.*\.png"):
            write(tmp_path / name, image)
    with pytest.raises(FileError, match=r"lossless.*\.tif"):
        write_probs(tmp_path / name, image.astype(np.float32))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("channels", [2, 4, 5])
def test_tiff_of_any_number_of_channels_is_read_back(tmp_path, channels):
    image = np.random.default_rng(0).integers(0, 65536, (9, 12, channels)).astype(np.uint16)
    write_image(tmp_path / "a.tif", image)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), image)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "a.tif"), image)
    with pytest.raises(ArrayError, match=r"to be a PNG.*\.tif \(image_format=tiff"):
        write_image(tmp_path / "a.png", image)


@pytest.mark.parametrize("shape", [(3,), (3, 4, 1), (3, 4, 3, 1), (0, 4), ()])
def test_images_of_other_shapes_are_refused(tmp_path, shape):
    with pytest.raises(ArrayError, match=r"\(H, W\) or \(H, W, C\)"):
        write_image(tmp_path / "image.png", np.zeros(shape, np.uint8))


@pytest.mark.parametrize(
    ("labels", "options", "error", "message"),
    [
        (np.full((3, 4), 2), {}, ArrayError, "foreground=None"),
        (np.full((3, 4), 65536), {"foreground": None}, ArrayError, "0 to 65535"),
        (np.full((3, 4), -1), {"foreground": None}, ArrayError, "0 to 65535"),
        (np.ones((3, 4)), {}, ArrayError, "integers"),
        (np.ones((3, 4, 1), int), {}, ArrayError, "integers"),
        (np.ones((3, 4), int), {"foreground": 0}, SettingError, "foreground"),
        (np.ones((3, 4), int), {"foreground": True}, SettingError, "foreground"),
    ],
)
def test_labels_out_of_range_are_refused(tmp_path, labels, options, error, message):
    with pytest.raises(error, match=message):
        write_mask(tmp_path / "mask.png", labels, **options)


def test_an_encoder_that_fails_is_an_error_and_the_old_file_stays(tmp_path, monkeypatch):
    path = tmp_path / "image.png"
    write_image(path, np.zeros((3, 4), np.uint8))
    before = path.read_bytes()
    for result in ((False, np.empty(0, np.uint8)), (True, np.empty(0, np.uint8))):
        monkeypatch.setattr(cv2, "imencode", lambda *_, result=result: result)
        with pytest.raises(FileError, match="encoded as PNG"):
            write_image(path, np.ones((3, 4), np.uint8))
    assert path.read_bytes() == before


def test_text_is_written_as_utf8_with_unix_line_ends(tmp_path):
    write_text(tmp_path / "a.txt", "é\n\n")
    assert (tmp_path / "a.txt").read_bytes() == b"\xc3\xa9\n\n"
    write_text(tmp_path / "a.txt", os.fsdecode(b"\xff.png"))
    assert (tmp_path / "a.txt").read_bytes() == b"\xff.png"


@pytest.mark.parametrize("name", ["-rf", "a\nb", "é", os.fsdecode(b"\xff\xfe"), "x" * 255])
def test_odd_names_are_written(tmp_path, name):
    write_bytes(tmp_path / name, b"whole")
    assert (tmp_path / name).read_bytes() == b"whole"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("name", ["", "a\0b", b"bytes", 3])
def test_arguments_that_are_not_paths_are_refused(name):
    with pytest.raises(FileError, match="path"):
        write_bytes(name, b"whole")


def test_missing_folders_are_made(tmp_path):
    write_bytes(tmp_path / "a" / "b" / "c.bin", b"whole")
    assert (tmp_path / "a" / "b" / "c.bin").read_bytes() == b"whole"


def test_a_relative_name_is_written_in_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_bytes("a.bin", b"whole")
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]


def test_a_link_is_followed_and_stays_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.bin").write_bytes(b"old")
    (tmp_path / "link.bin").symlink_to(tmp_path / "real" / "a.bin")
    write_bytes(tmp_path / "link.bin", b"new")
    assert (tmp_path / "link.bin").is_symlink()
    assert (tmp_path / "real" / "a.bin").read_bytes() == b"new"


@pytest.mark.skipif(os.name == "nt", reason="Windows has other rights")
def test_a_replaced_file_has_the_same_rights_and_a_new_one_follows_the_umask(tmp_path):
    path = tmp_path / "a.bin"
    write_bytes(path, b"old")
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask
    path.chmod(0o640)
    write_bytes(path, b"new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_only_files_are_replaced(tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name, kind in (("folder", "a folder"), ("pipe", "a pipe")):
        with pytest.raises(FileError, match=kind):
            write_bytes(tmp_path / name, b"whole")
    with pytest.raises(FileError, match="device"):
        write_bytes("/dev/full", b"whole")
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match="writable"):
        write_bytes(tmp_path / "file" / "below", b"whole")
    assert len(list(tmp_path.iterdir())) == 3


@as_root
def test_rights_are_respected(tmp_path):
    write_bytes(tmp_path / "old.bin", b"old")
    (tmp_path / "old.bin").chmod(0o444)
    with pytest.raises(FileError, match="read-only"):
        write_bytes(tmp_path / "old.bin", b"new")
    (tmp_path / "closed").mkdir(mode=0o555)
    for write in (
        lambda: write_bytes(tmp_path / "closed" / "a", b""),
        lambda: check_writable(tmp_path / "closed"),
    ):
        with pytest.raises(FileError, match="rights"):
            write()


def test_a_read_only_file_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    (tmp_path / "old.bin").write_bytes(b"old")
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)  # root may write it
    with pytest.raises(FileError, match=r"got a read-only file. Change the rights"):
        write_bytes(tmp_path / "old.bin", b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("old.bin", b"old")]


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, OSError])
def test_an_error_in_the_block_leaves_the_old_file(tmp_path, kind):
    path = tmp_path / "a.bin"
    write_bytes(path, b"old")

    def write():
        with atomic_write(path) as file:
            file.write(b"new")
            raise kind

    with pytest.raises(FileError if kind is OSError else kind):
        write()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_temporary_file_is_readable_and_beside_the_target(tmp_path):
    with atomic_write(tmp_path / "a.bin") as file:
        file.write(b"abc")
        file.seek(1)
        assert file.read() == b"bc"
        assert Path(file.name).parent == tmp_path
        assert not (tmp_path / "a.bin").exists()
    assert (tmp_path / "a.bin").read_bytes() == b"abc"


CALLS = ["mkdir", "open", "fchmod", "fsync", "fstat", "replace", "stat", "rename"]


class Failing:
    """Makes the n-th system call fail."""

    def __init__(self, number):
        self.left = number
        self.failed = None
        self.done = []

    def wrap(self, name, function):
        def call(*args, **kwargs):
            self.left -= 1
            if self.left == 0:
                self.failed = name
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            result = function(*args, **kwargs)
            self.done.append(name)
            return result

        return call


def test_the_file_is_whole_whichever_system_call_fails(tmp_path, monkeypatch):
    failures = []
    for number in range(1, 40):
        done = False
        path = tmp_path / str(number) / "a.bin"
        path.parent.mkdir()
        path.write_bytes(b"old")
        failing = Failing(number)
        with monkeypatch.context() as patch:
            for name in CALLS:
                patch.setattr(os, name, failing.wrap(name, getattr(os, name)))
            with contextlib.suppress(FileError):
                write_bytes(path, b"new" * 100_000)
                done = True
        if failing.failed is None:
            assert done
            break
        failures.append(failing.failed)
        assert path.read_bytes() == (b"new" * 100_000 if "replace" in failing.done else b"old")
        assert [entry.name for entry in path.parent.iterdir()] == ["a.bin"]
    else:
        pytest.fail("the writer never finished")
    assert {"open", "fsync", "fstat", "replace"} <= set(failures)
    assert failures.count("fsync") == 2  # for the file, then for the folder


def test_a_short_write_is_found(tmp_path, monkeypatch):
    path = tmp_path / "a.bin"
    write_bytes(path, b"old")
    real = os.fstat

    def shorter(descriptor):
        fields = list(real(descriptor))
        fields[stat.ST_SIZE] -= 1
        return os.stat_result(fields)

    monkeypatch.setattr("tiledseg._storage.files.os.fstat", shorter)
    with pytest.raises(FileError, match="only 2 of 3 bytes"):
        write_bytes(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"


def run(code: str, *args: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, args)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )


FULL = """
import resource, sys
import numpy as np
from tiledseg.errors import FileError
from tiledseg._storage import write_bytes
from tiledseg.io import write_image, write_probs
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
jobs = {
    "a.bin": lambda path: write_bytes(path, noise.tobytes()),
    "a.png": lambda path: write_image(path, noise),
    "a.tif": lambda path: write_image(path, noise),
    "p.tif": lambda path: write_probs(path, noise / 255),
}
for name, job in jobs.items():
    try:
        job(f"{sys.argv[1]}/{name}")
    except FileError as error:
        print(error)
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such limits")
def test_a_full_disk_leaves_the_old_files(tmp_path):
    names = {"a.bin", "a.png", "a.tif", "p.tif"}
    for name in names:
        (tmp_path / name).write_bytes(b"old")
    done = run(FULL, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("must be writable; got File too large") == 4
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == dict.fromkeys(names, b"old")


ENDLESS = """
import sys, time
from tiledseg._storage import atomic_write
with atomic_write(sys.argv[1]) as file:
    file.write(b"new" * 100_000)
    file.flush()
    print("writing", flush=True)
    time.sleep(1e6)
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_a_kill_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with subprocess.Popen(
        [sys.executable, "-c", ENDLESS, str(path)], stdout=subprocess.PIPE, cwd=ROOT
    ) as process:
        assert process.stdout.readline() == b"writing\n"
        process.send_signal(signal.SIGKILL)
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir() if not entry.name.startswith(".tiledseg-")] == [
        "a.bin"
    ]
    write_bytes(path, b"new")
    assert path.read_bytes() == b"new"


FOREVER = """
import sys
from tiledseg._storage import write_bytes
print("ready", flush=True)
for number in range(10**9):
    write_bytes(sys.argv[1], bytes([number % 251]) * 300_000)
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_kills_at_any_moment_leave_a_whole_file(tmp_path):
    path = tmp_path / "a.bin"
    write_bytes(path, b"\0" * 300_000)
    for delay in (0.0, 0.013, 0.029):
        with subprocess.Popen(
            [sys.executable, "-c", FOREVER, str(path)], stdout=subprocess.PIPE, cwd=ROOT
        ) as process:
            process.stdout.readline()
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
        data = path.read_bytes()
        assert len(data) == 300_000
        assert len(set(data)) == 1


def test_check_writable_makes_folders_and_refuses_files(tmp_path):
    assert check_writable(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert list((tmp_path / "a" / "b").iterdir()) == []
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below", "/proc/nothing", ""):
        with pytest.raises(FileError):
            check_writable(path)


def test_check_writable_finds_a_full_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", Failing(1).wrap("fsync", os.fsync))
    with pytest.raises(FileError, match="space"):
        check_writable(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["a b", "nan nan", "0 0", "-1 2", "1e400 1", "2"])
def test_a_scale_that_is_none_is_left_out(text, tmp_path):
    notes = PngImagePlugin.PngInfo()
    notes.add_text("level_scale", text)
    Image.new("L", (4, 3)).save(tmp_path / "a.png", pnginfo=notes)
    assert level_scale_of(tmp_path / "a.png") == (1, 1)


@pytest.mark.parametrize("text", ["{}", "[" * 9999, '{"attributes": 5}', '{"attributes": {"tiledseg": 5}}'])
def test_a_zarr_without_a_scale_has_none(text, tmp_path):
    (tmp_path / "zarr.json").write_text(text)
    assert level_scale_of(tmp_path) == (1, 1)
