"""Locks, digests, caches on disk and new folders; test_io_write tests the writing of files."""

from __future__ import annotations

import contextlib
import csv
import errno
import hashlib
import logging
import os
import stat
import threading
import unicodedata
from pathlib import Path
from typing import ClassVar

import numpy as np
import psutil
import pytest

from tiledseg._storage import (
    DiskCache,
    ScratchFile,
    array_digest,
    atomic_write,
    check_component,
    check_new_folder,
    check_writable,
    csv_text,
    file_digest,
    file_lock,
    first_alike,
    folder_lock,
    json_of,
    new_folder,
    open_part,
    open_part_folder,
    open_regular,
    part_beside,
    raise_unwritable,
    read_at,
    scratch_array,
    sha256,
    write_bytes,
    write_text,
)
from tiledseg.errors import FileError
from tiledseg.io import create_image

if os.name != "nt":
    import fcntl

LOCK = ".tiledseg.lock"


def refused(context, message):
    with pytest.raises(FileError, match=message), context:
        pass


def test_no_file_is_removed_or_renamed_while_it_is_open(tmp_path, monkeypatch):
    seen = []

    def watched(name):
        original = getattr(Path, name)

        def call(path, *arguments, **options):
            opened = {one.path for one in psutil.Process().open_files()}
            inside = [one for one in opened if Path(one).is_relative_to(path.absolute())]
            seen.append((name, path.name, inside))
            return original(path, *arguments, **options)

        monkeypatch.setattr(Path, name, call)

    for name in ("unlink", "replace"):
        watched(name)
    check_writable(tmp_path)
    write_bytes(tmp_path / "a.bin", b"a")
    with pytest.raises(ZeroDivisionError), atomic_write(tmp_path / "b.bin"):
        _ = 1 / 0
    for name, options in (("c.ome.tif", {}), ("d.npy", {"fingerprint": {"a": 1}})):
        with create_image(tmp_path / name, (64, 64), np.uint8, labels=True, **options) as out:
            out[:] = np.zeros((64, 64), np.uint8)
    with new_folder(tmp_path / "new") as folder:
        (folder / "one").write_text("one")
    assert {name for name, *_ in seen} == {"unlink", "replace"}
    locks = "lock"  # are removed while they are held, except on Windows
    assert [one for one in seen if one[2] and not one[1].endswith(locks)] == []


def test_parts_of_killed_processes_are_removed_and_those_in_use_are_not(tmp_path):
    left = tmp_path / f".tiledseg-{0:016x}.part"
    left.write_bytes(b"left")
    (tmp_path / f".tiledseg-{1:016x}.part").mkdir()
    foreign = tmp_path / f".tiledseg-{2:016x}.part.txt"
    foreign.touch()
    zarr = create_image(tmp_path / "d.ome.zarr", (9, 9), np.uint8)
    with (
        atomic_write(tmp_path / "a.bin") as file,
        new_folder(tmp_path / "b") as folder,
        create_image(tmp_path / "c.npy", (9, 9), np.uint8) as array,
        zarr as image,
    ):
        check_writable(tmp_path)
        file.write(b"a")
        (folder / "one").touch()
        image[:] = array[:] = np.zeros((9, 9), np.uint8)
    assert {path.name for path in tmp_path.iterdir()} == {"a.bin", "b", "c.npy", "d.ome.zarr", foreign.name}


def test_the_part_of_a_killed_process_is_known_by_its_name(tmp_path):
    part_beside(tmp_path / "a.bin").touch()
    part_beside(tmp_path / "b").mkdir()
    check_writable(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_part_that_is_there_already_is_marked_again(tmp_path):
    for _ in range(2):
        marked = open_part_folder(tmp_path / "a" / "part")
        if marked is not None:
            os.close(marked)
    assert (tmp_path / "a" / "part").is_dir()


@pytest.mark.skipif(os.name == "nt", reason="an open file stays there, and there are no pipes")
def test_a_part_that_is_taken_for_a_rest_before_it_is_marked_is_made_again(tmp_path, monkeypatch):
    part, flock, taken = part_beside(tmp_path / "a"), fcntl.flock, []

    def taken_first(descriptor, kind):
        if not taken:
            taken.append(part.unlink())
        flock(descriptor, kind)

    with monkeypatch.context() as patch:
        patch.setattr("fcntl.flock", taken_first)
        descriptor = open_part(part, os.O_RDWR)
    assert os.fstat(descriptor).st_ino == part.stat().st_ino
    os.close(descriptor)
    assert taken


@pytest.mark.skipif(os.name == "nt", reason="no pipes there")
def test_what_is_neither_file_nor_folder_is_no_part(tmp_path):
    os.mkfifo(part_beside(tmp_path / "a"))
    check_writable(tmp_path)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("text", ["", "..", "a/b", "a\\b", "/a", "C:a", "a\0"])
def test_a_text_that_is_no_component_of_a_path_is_refused(text):
    with pytest.raises(FileError, match=r"`image 3` must be the name of a file or a folder.* Fix it"):
        check_component(text, "image 3", "Fix it.")
    check_component("a.tif", "image 3", "Fix it.")


def test_json_has_each_key_once_and_no_nan_where_it_has_no_meaning():
    assert json_of('{"a": [1, NaN]}', nan=True)["a"][0] == json_of(b'{"a": 1}')["a"] == 1
    for text, message in (
        ('{"a": NaN}', "NaN is not"),
        ('{"b": 1, "a": 2, "a": 2}', "key .?a.? occurs twice"),
    ):
        with pytest.raises(ValueError, match=message):
            json_of(text)


def test_no_spreadsheet_runs_what_a_table_holds():
    names = ["=1+1", "+1", "-a", "@a", 'a,"b', "2 - 1"]
    rows = list(
        csv.reader(csv_text(["name", "score"], [{"name": one, "score": -0.5} for one in names]).splitlines())
    )
    assert [name for name, _ in rows[1:]] == ["'=1+1", "'+1", "'-a", "'@a", 'a,"b', "2 - 1"]
    assert {score for _, score in rows[1:]} == {"-0.5"}


@pytest.mark.parametrize("name", ["a\r=1+1", "\r=1+1", "\n=1+1", "a\r\n=1+1", "\uff1d1+1", "\uff0b1", "\t=1"])
def test_no_line_or_cell_of_a_csv_begins_a_formula(tmp_path, name):
    write_text(tmp_path / "a.csv", csv_text([name, "score"], [{name: name, "score": 1}]))
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert [len(row) for row in rows] == [2, 2]
    assert not any(cell[:1] in "=+-@\t\r\n\uff1d\uff0b" for row in rows for cell in row)


def test_a_second_run_is_refused_and_the_lock_leaves_no_file(tmp_path):
    with folder_lock(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == [LOCK]
        refused(folder_lock(tmp_path), rf"in use by a run in process {os.getpid()}\b")
    assert not list(tmp_path.iterdir())


def test_the_lock_of_a_killed_run_is_taken_over(tmp_path):
    with folder_lock(tmp_path):
        left = (tmp_path / LOCK).read_bytes()
    for data in (left, b""):
        (tmp_path / LOCK).write_bytes(data)
        with folder_lock(tmp_path):
            pass
        assert not list(tmp_path.iterdir())


def test_a_file_named_lock_is_not_changed(tmp_path):
    (tmp_path / "lock").write_text("my own notes")
    with folder_lock(tmp_path):
        pass
    assert (tmp_path / "lock").read_text() == "my own notes"


@pytest.mark.parametrize("data", [b"x", b"my own notes", b"\0tiledseg lock, process 5\n" * 9])
def test_a_file_under_the_name_of_the_lock_is_refused_and_not_changed(tmp_path, data):
    (tmp_path / LOCK).write_bytes(data)
    refused(folder_lock(tmp_path), "must be a lock of tiledseg")
    assert (tmp_path / LOCK).read_bytes() == data


@pytest.mark.parametrize(("size", "holds"), [(64, True), (65, False)])
def test_a_lock_is_a_small_file_that_begins_as_one(tmp_path, size, holds):
    (tmp_path / LOCK).write_bytes(b"\0tiledseg lock, process 5".ljust(size))
    with contextlib.nullcontext() if holds else pytest.raises(FileError, match="must be a lock of tiledseg"):  # noqa: SIM117
        with folder_lock(tmp_path):
            pass


def test_a_lock_that_cannot_be_opened_is_told_from_a_file_that_is_none(tmp_path, monkeypatch):
    check_writable(tmp_path)
    for number, message in (
        (errno.EMFILE, "must be writable; got open is made"),
        (errno.ENXIO, "must be a lock"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr("tiledseg._storage.locks.os.open", failing("open", number))
            refused(file_lock(tmp_path / LOCK, tmp_path), message)


def test_a_lock_that_cannot_be_read_is_an_error(tmp_path, monkeypatch):
    (tmp_path / LOCK).touch()
    monkeypatch.setattr("tiledseg._storage.locks.os.read", failing("read"))
    refused(folder_lock(tmp_path), "must be writable; got read is made")


def test_a_file_that_appears_just_before_the_lock_is_not_changed(tmp_path, monkeypatch):
    monkeypatch.setattr("tiledseg._storage.locks._holder", lambda path: "")
    (tmp_path / LOCK).write_text("my own notes")
    refused(folder_lock(tmp_path), "must be a lock of tiledseg")
    assert (tmp_path / LOCK).read_text() == "my own notes"


@pytest.mark.skipif(os.name == "nt", reason="no open file is removed there")
def test_a_lock_that_was_removed_is_released(tmp_path):
    with folder_lock(tmp_path):
        (tmp_path / LOCK).unlink()
    with folder_lock(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_a_lock_may_be_released_by_another_thread(tmp_path):
    lock = folder_lock(tmp_path)
    lock.__enter__()
    thread = threading.Thread(target=lock.__exit__, args=(None, None, None))
    thread.start()
    thread.join()
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name == "nt", reason="Windows has other locks")
def test_a_drive_without_locks_is_used_without_and_any_other_failure_is_an_error(tmp_path, monkeypatch):
    with folder_lock(tmp_path):
        left = (tmp_path / LOCK).read_bytes()
    (tmp_path / LOCK).write_bytes(left)  # of a killed run
    monkeypatch.setattr("fcntl.flock", failing("flock", errno.ENOSYS))
    with folder_lock(tmp_path):
        (tmp_path / "a").touch()
    monkeypatch.setattr("fcntl.flock", failing("flock", errno.EIO))
    refused(folder_lock(tmp_path), "flock is made to fail")
    assert (tmp_path / "a").exists()


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
@pytest.mark.parametrize("target", ["thesis.txt", "missing.txt"])
def test_a_link_is_not_followed(tmp_path, target):
    (tmp_path / "thesis.txt").write_text("thesis")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / LOCK).symlink_to(tmp_path / target)
    refused(folder_lock(tmp_path / "out"), "must be a lock of tiledseg")
    assert (tmp_path / "thesis.txt").read_text() == "thesis"
    assert not (tmp_path / "missing.txt").exists()


@pytest.mark.skipif(os.name == "nt", reason="no pipes there")
def test_a_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / LOCK)
    refused(folder_lock(tmp_path), "must be a lock of tiledseg")


def test_the_error_of_a_lock_beside_a_file_names_the_file(tmp_path):
    with file_lock(tmp_path / ".a.lock", tmp_path / "a.tif"):
        refused(file_lock(tmp_path / ".a.lock", tmp_path / "a.tif"), r"a\.tif` is in use")


def test_digests_depend_on_bytes_shape_and_dtype(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"some bytes")
    assert sha256(path) == hashlib.sha256(b"some bytes").hexdigest()
    assert file_digest(path) == f"sha256:{sha256(path)}"
    with pytest.raises(FileError, match="does not exist"):
        sha256(tmp_path / "missing")
    array = np.arange(6, dtype=np.uint8)
    digests = {array_digest(one) for one in (array, array.reshape(2, 3), array.astype(np.int8), array[::-1])}
    assert len(digests) == 4


def test_the_digest_of_a_zarr_counts_names_and_contents_but_not_its_label_maps(tmp_path):
    for name in ("b", "a/labels/0", "labels/cells/0"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    parts = [f"{name}\0{hashlib.sha256(name.encode()).hexdigest()}\0" for name in ("b", "a/labels/0")]
    assert file_digest(tmp_path) == f"sha256:{hashlib.sha256(''.join(parts).encode()).hexdigest()}"


@pytest.mark.skipif(os.name == "nt", reason="no pipes there")
def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    refused(open_regular(tmp_path / "pipe"), "got a pipe, a socket or a device")
    refused(open_regular(tmp_path), "got a folder")


@pytest.mark.parametrize(
    ("error", "fix"),
    [
        (OSError(errno.ENOSPC, "full"), "got full. Free some space"),
        (OSError("odd"), "got odd. Check the folder and its rights"),
    ],
)
def test_a_target_that_cannot_be_written_is_an_error_with_its_own_fix(error, fix):
    with pytest.raises(FileError, match=fix):
        raise_unwritable("a.bin", error)


def test_a_trial_that_cannot_be_made_is_an_error_with_its_own_fix(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "open", failing("open", errno.ENOSPC))
    with pytest.raises(FileError, match="Free some space"):
        check_writable(tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="folders cannot be opened there")
@pytest.mark.parametrize("number", [errno.EINVAL, errno.EIO])
def test_a_folder_that_cannot_be_synced_matters_where_its_drive_could(tmp_path, monkeypatch, number):
    def fsync(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, "fsync is made to fail")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(FileError, match="made to fail") if number == errno.EIO else contextlib.nullcontext():
        write_bytes(tmp_path / "a.bin", b"a")
    assert (tmp_path / "a.bin").read_bytes() == b"a"


def test_bytes_are_read_at_an_offset_without_pread(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"0123456789")
    with (tmp_path / "a").open("rb") as file:
        assert read_at(file, 3, 4) == b"3456"
        monkeypatch.delattr(os, "pread", raising=False)
        assert read_at(file, 3, 4) == b"3456"
        assert read_at(file, 8, 4) == b"89"


def test_a_cache_returns_what_was_written_first(tmp_path):
    cache = DiskCache(tmp_path / "cache")
    assert cache.find("key") is None
    folder = cache.keep("key", lambda where: (where / "a.npy").write_bytes(b"data"))
    assert cache.find("key") == folder
    assert cache.keep("key", lambda where: (where / "a.npy").write_bytes(b"other")) == folder
    assert (folder / "a.npy").read_bytes() == b"data"
    for _ in range(2):
        cache.drop("key")
        assert cache.find("key") is None


@pytest.mark.parametrize("name", ["a.npy", "sha256.json"])
@pytest.mark.parametrize("data", [None, b"", b"DATA", b"[1]", b'{"../secret": "0"}'])
def test_a_damaged_folder_of_a_cache_is_dropped(tmp_path, caplog, name, data):
    def write(where):
        for one in ("a.npy", "b.npy"):
            (where / one).write_bytes(b"data")

    cache = DiskCache(tmp_path)
    folder = cache.keep("key", write)
    (folder / name).unlink()
    if data is not None:
        (folder / name).write_bytes(data)
    with caplog.at_level(logging.WARNING, logger="tiledseg"):
        assert cache.find("key") is None
    assert "is damaged" in caplog.text
    assert cache.keep("key", write) == folder
    assert cache.find("key") == folder


def test_a_cache_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match="file"):
        DiskCache(tmp_path / "file").keep("key", lambda where: (where / "a").touch())


def test_a_writer_that_fails_leaves_nothing_in_the_cache(tmp_path):
    def fail(where):
        (where / "data").write_bytes(b"half")
        raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        DiskCache(tmp_path).keep("key", fail)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("first", "other"),
    [
        ("a.png", "A.png"),
        ("\u00e9.png", "\u00c9.png"),
        ("\u00e9.png", "e\u0301.png"),
        ("deep/b.png", "deep/B.png"),
    ],
)
def test_names_that_a_file_system_takes_for_one_are_found(first, other, tmp_path, monkeypatch):
    names = ["a.png", "\u00e9.png", "deep/b.png", other]
    assert first_alike(tmp_path, names) is None  # here they differ
    assert not list(tmp_path.iterdir())
    touch = Path.touch

    def insensitive(path, *args, **kwargs):
        touch(path.with_name(unicodedata.normalize("NFC", path.name).casefold()), *args, **kwargs)

    monkeypatch.setattr(Path, "touch", insensitive)
    assert first_alike(tmp_path, names) == (first, other)
    assert first_alike(tmp_path, names[:3]) is None


def test_a_file_is_no_place_for_names_or_a_new_folder(tmp_path):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(FileError, match="file` must be writable"):
        first_alike(file, ["a.png", "A.png"])
    refused(new_folder(file), "file` must be a folder; got Not a directory")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_new_folder_replaces_only_the_names_given(tmp_path):
    target = tmp_path / "out"
    for text in ("first", "second"):
        with new_folder(target, replace=("missing", "a")) as part:
            (part / "a").write_text(text)
    assert (target / "a").read_text() == "second"
    (target / "notes").write_text("mine")
    refused(new_folder(target, replace={"a"}), "notes in it")
    for name in ("a", "notes"):
        (target / name).unlink()
    (target / "a").mkdir()
    (target / "a" / "notes").write_text("mine")
    refused(new_folder(target, replace={"a"}), "a in it")  # a folder of somebody's, with that name
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_new_folder_is_made_with_those_above_it_or_none_is(tmp_path):
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "a" / "b") as part:
        _ = 1 / 0
    assert not part.exists()
    assert check_new_folder(tmp_path / "e" / "f") == tmp_path / "e" / "f"
    assert not (tmp_path / "e").exists()
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "a") as part:  # noqa: PT012
        part.rmdir()
        _ = 1 / 0
    with new_folder(tmp_path / "c" / "d") as part:
        (part / "one").touch()
    assert (tmp_path / "c" / "d" / "one").exists()


def test_a_file_that_appears_in_a_folder_while_it_is_replaced_stays(tmp_path):
    target = tmp_path / "out"
    target.mkdir()
    (target / "a").write_text("first")
    with pytest.raises(FileError, match="notes in it"):  # noqa: PT012, SIM117  while it is filled
        with new_folder(target, replace={"a"}) as part:
            (part / "a").write_text("second")
            (target / "notes").write_text("mine")
    assert (target / "a").read_text() == "first"
    assert (target / "notes").read_text() == "mine"


def failing(kind, number=errno.EIO):
    """Return a call that fails as on a broken disk."""

    def call(*arguments, **options):
        raise OSError(number, f"{kind} is made to fail")

    return call


def test_a_lock_that_cannot_be_signed_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "ftruncate", failing("ftruncate"))
    with pytest.raises(FileError, match="ftruncate is made to fail"), folder_lock(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_cannot_be_closed_hides_no_result(tmp_path, monkeypatch):
    with monkeypatch.context() as patch, folder_lock(tmp_path):
        patch.setattr("filelock.FileLock.release", failing("close"))
    with folder_lock(tmp_path):
        pass


@pytest.mark.parametrize("nth", [2, 3, 4])  # the first is of a part that is looked at
def test_a_close_that_fails_is_a_typed_error_and_leaves_no_half_folder(nth, tmp_path, monkeypatch):
    calls = []

    def close(descriptor):
        closed(descriptor)
        calls.append(descriptor)
        if len(calls) == nth:
            raise OSError(errno.EIO, "close is made to fail")

    closed = os.close
    refused(made_in(tmp_path, lambda: monkeypatch.setattr(os, "close", close)), "close is made to fail")
    assert [path.name for path in tmp_path.iterdir()] in ([], ["new"])


@contextlib.contextmanager
def made_in(folder, break_it):
    with new_folder(folder / "new") as part:
        (part / "a").write_text("a")
        break_it()
        yield


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="space cannot be reserved here")
def test_a_full_disk_is_an_error_before_memory_is_mapped_to_it(monkeypatch):
    assert scratch_array((3, 2), np.dtype(np.int16)).tolist() == [[0, 0]] * 3
    taken = []
    monkeypatch.setattr(os, "posix_fallocate", lambda descriptor, *range_: taken.append(range_))
    scratch_array((3, 2), np.dtype(np.int16))
    assert taken == [(0, 12)]
    monkeypatch.setattr(os, "posix_fallocate", failing("fallocate"))
    with pytest.raises(FileError, match=r"fallocate is made to fail.*TMPDIR"):
        scratch_array((3, 2), np.dtype(np.int16))


def test_space_is_taken_by_writing_where_it_cannot_be_reserved(monkeypatch):
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    monkeypatch.setattr("tiledseg._storage.cache._ZEROS", 8)
    array = scratch_array((5, 2), np.dtype(np.int16))
    assert array.tolist() == [[0, 0]] * 5
    monkeypatch.setattr("tempfile.TemporaryFile", FullFile)
    with pytest.raises(FileError, match="full at 16"):
        scratch_array((5, 2), np.dtype(np.int16))
    assert FullFile.written == [8, 8, 4]


class FullFile(contextlib.AbstractContextManager):
    """A file on a disk that has 16 bytes left."""

    written: ClassVar[list[int]] = []

    def write(self, data):
        self.written.append(len(data))
        if sum(self.written) > 16:
            raise OSError(errno.ENOSPC, "full at 16")

    def flush(self):
        raise AssertionError("the file is larger than its disk")

    def __exit__(self, *error):
        return None


def test_a_temporary_file_keeps_what_is_written_at_an_offset():
    for in_memory in (0, 100):
        file = ScratchFile(in_memory)
        file.write(3, b"abc")
        assert file.read(0, 9) == b"\0\0\0abc"
        file.close()


def test_whichever_close_fails_the_folder_is_old_or_new_and_no_other_is_left(tmp_path, monkeypatch):
    close, outcomes = os.close, []
    for failing in range(8):
        folder, calls = tmp_path / str(failing) / "a", []
        with new_folder(folder) as filling:
            (filling / "x").write_text("old")

        def fail(descriptor: int, calls=calls, failing=failing) -> None:
            calls.append(close(descriptor))
            if len(calls) == failing + 1:
                raise OSError(5, "Input/output error")

        with monkeypatch.context() as patch:
            try:
                with new_folder(folder, replace=("x",)) as filling:
                    (filling / "x").write_text("new")
                    patch.setattr(os, "close", fail)
            except FileError:
                outcomes.append(f"{failing} fails")
        outcomes.append((folder / "x").read_text())
        assert [path.name for path in folder.parent.rglob("x")] == ["x"], failing
    assert {"old", "new"} <= {*outcomes}
    assert any("fails" in one for one in outcomes)
