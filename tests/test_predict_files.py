"""predict_files: real files in, whole files out, one broken file stops none of the others."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from itertools import count
from pathlib import Path
from types import ModuleType, SimpleNamespace

import cv2
import numpy as np
import pytest
import tqdm
from PIL import Image

try:
    import zarr
except ModuleNotFoundError:  # tests that need them are skipped
    zarr = ModuleType("zarr")

import tiledseg as ts
from tiledseg._backend import keras
from tiledseg._storage import folder_lock
from tiledseg.config import PredictConfig, PreprocessingConfig
from tiledseg.errors import FileError, ModelError, SettingError
from tiledseg.io import PngRows, read_image, read_mask, read_probs, write_image


def red(tiles):
    return tiles[..., :1]


SEGMENTER = SimpleNamespace(
    network=red,
    preprocessing=PreprocessingConfig(),
    labels=("red",),
    threshold=0.5,
    tiling=ts.TilingConfig(tile_size=32, overlap=8),
)


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.tif", "deep/c.png"):
        write_image(tmp_path / "images" / name, rng.integers(0, 256, (50, 70, 3), np.uint8))
    return tmp_path / "images"


def test_masks_probabilities_and_overlays_are_written(folder, tmp_path):
    config = PredictConfig(write=("mask", "probs", "overlay"), probs_dtype="float32")
    result = ts.predict_files(SEGMENTER, folder, tmp_path / "out", config)
    assert str(result) == "2 predicted, 0 skipped, 0 failed"
    image = read_image(folder / "a.png")
    probs = read_probs(tmp_path / "out" / "probs" / "a.tif")
    np.testing.assert_allclose(probs.reshape(50, 70), image[..., 0] / np.float32(255), rtol=1e-6)
    mask = read_image(tmp_path / "out" / "masks" / "a.png")
    np.testing.assert_array_equal(mask, np.where(image[..., 0] >= 127.5, 255, 0))
    assert read_mask(tmp_path / "out" / "masks" / "a.png", threshold=128).max() == 1
    assert read_image(tmp_path / "out" / "overlays" / "b.png").shape == (50, 70, 3)
    assert result.outcomes[0].seconds > 0


def test_folders_inside_keep_their_place_and_labels_their_numbers(folder, tmp_path):
    def three(tiles):
        return tiles / tiles.sum(axis=-1, keepdims=True).clip(1e-6)

    config = PredictConfig(recursive=True, mask_format="tiff")
    ts.predict_files(three, [folder], tmp_path / "out", config)
    labels = read_image(tmp_path / "out" / "masks" / "deep" / "c.tif")
    np.testing.assert_array_equal(labels, read_image(folder / "deep" / "c.png").argmax(axis=-1))


def test_a_pattern_names_the_files_that_it_matches(folder, tmp_path):
    assert str(ts.predict_files(SEGMENTER, folder / "[b-z].*", tmp_path)).startswith("1 predicted")
    assert [path.name for path in (tmp_path / "masks").iterdir()] == ["b.png"]


def test_a_broken_file_is_reported_and_stops_none_of_the_others(folder, tmp_path):
    (folder / "a2.png").write_bytes((folder / "a.png").read_bytes()[:200])
    (folder / "a3.jpg").write_bytes(b"")
    result = ts.predict_files(SEGMENTER, folder, tmp_path / "out")
    assert [outcome.path.name for outcome in result.failed] == ["a2.png", "a3.jpg"]
    assert [outcome.path.name for outcome in result.done] == ["a.png", "b.tif"]
    assert sorted(path.name for path in (tmp_path / "out" / "masks").iterdir()) == ["a.png", "b.png"]
    assert "2 predicted, 0 skipped, 2 failed" in str(result)
    assert "a2.png" in str(result)


def test_the_error_of_one_file_is_its_own_outcome(folder, tmp_path):
    damaged = folder / "z.zarr"
    zarr.create_array(damaged, shape=(64, 64, 3), chunks=(32, 32, 3), dtype="u1")[:] = 7
    facts = json.loads((damaged / "zarr.json").read_text())
    facts["chunk_grid"]["configuration"]["chunk_shape"] = [0, 0, 3]
    (damaged / "zarr.json").write_text(json.dumps(facts))

    def failing(tiles):
        if tiles.shape[-1] == 1:
            raise LookupError("not in this network")
        return red(tiles) / 255

    write_image(folder / "grey.png", np.zeros((9, 9), np.uint8))
    tiling = ts.TilingConfig(tile_size=32, overlap=8)
    result = ts.predict_files(failing, folder, tmp_path / "out", tiling=tiling)
    assert [outcome.path.name for outcome in result.failed] == ["grey.png", "z.zarr"]
    assert "LookupError: not in this network" in result.failed[0].error
    assert sorted(path.name for path in (tmp_path / "out" / "masks").iterdir()) == ["a.png", "b.png"]


def test_standing_results_are_refused_skipped_or_overwritten(folder, tmp_path):
    ts.predict_files(SEGMENTER, folder / "a.png", tmp_path / "out")
    mask = tmp_path / "out" / "masks" / "a.png"
    before = mask.read_bytes()
    calls = []

    def counting(tiles):
        calls.append(len(tiles))
        return 1 - red(tiles) / 255

    other = SimpleNamespace(**vars(SEGMENTER) | {"network": counting})
    with pytest.raises(FileError, match='existing="skip"'):
        ts.predict_files(other, folder, tmp_path / "out")
    assert not calls
    result = ts.predict_files(other, folder, tmp_path / "out", PredictConfig(existing="skip"))
    assert [outcome.skipped for outcome in result.outcomes] == [True, False]
    assert mask.read_bytes() == before
    ts.predict_files(other, folder, tmp_path / "out", PredictConfig(existing="overwrite"))
    assert mask.read_bytes() != before


def _predict(folder, out, version="v1", **settings):
    def network(tiles):
        return red(tiles) / 255

    network.fingerprint = version
    return ts.predict_files(network, folder, out, settings, tiling={"tile_size": 32})


def test_of_settings_in_a_table_only_those_that_differ_are_named(folder, tmp_path):
    write = ("mask", "objects")
    _predict(folder, tmp_path, write=write, objects={"min_area": 50})
    with pytest.raises(FileError, match=r"`objects` \{'min_area': 50\.0\} -> \{'min_area': 60\.0\}"):
        _predict(folder, tmp_path, existing="skip", write=write, objects={"min_area": 60})


def test_results_of_another_model_setting_or_image_are_not_skipped(folder, tmp_path, caplog):
    out, again = tmp_path / "out", {"existing": "skip"}
    _predict(folder, out)
    with pytest.raises(
        FileError, match=r"a\.png` was made with another `threshold`: `threshold` None -> 0\.7"
    ):
        _predict(folder, out, **again, threshold=0.7)
    with pytest.raises(FileError, match="another model: model v1 -> v2"):
        _predict(folder, out, "v2", **again)
    _predict(folder / "a.png", out, existing="overwrite", threshold=0.7)  # of one of them
    with pytest.raises(
        FileError, match=r"a\.png` was made with another `threshold`: `threshold` 0\.7 -> None"
    ):
        _predict(folder, out, **again)
    assert len(_predict(folder / "b.tif", out, **again).done) == 1
    write_image(folder / "b.tif", np.zeros((9, 9, 3), np.uint8))
    with pytest.raises(FileError, match=r"b\.tif.*one that changed since\. Delete .*b\.png"):
        _predict(folder / "b.tif", out, **again)
    assert not caplog.records
    (out / ".tiledseg-resume.json").unlink()
    assert all(one.skipped for one in _predict(folder, out, **again).outcomes)
    assert "2 results" in caplog.text


@pytest.mark.parametrize("settings", [{}, {"mask_format": "ome-tiff", "resume": True}])
def test_an_image_is_known_again_by_its_contents(settings, folder, tmp_path):
    out, image = tmp_path / "out", folder / "b.tif"
    _predict(folder, out, **settings)
    again = settings | ({} if settings else {"existing": "skip"})
    shutil.copyfile(image, tmp_path / "copy")
    (tmp_path / "copy").replace(image)
    assert all(one.skipped for one in _predict(folder, out, **again).outcomes)
    stamp, pixels = image.stat(), image.read_bytes()
    image.write_bytes(pixels[:-1] + bytes([pixels[-1] ^ 255]))  # of the same size, at the same time
    os.utime(image, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    with pytest.raises(FileError, match=r"b\.tif.*one that changed since"):
        _predict(folder, out, **again)
    image.write_bytes(pixels)
    assert all(one.skipped for one in _predict(folder, out, **again).outcomes)


def test_results_of_another_region_of_interest_are_not_skipped(folder, tmp_path):
    area = tmp_path / "area.png"
    write_image(area, np.full((9, 9), 255, np.uint8))
    write_image(folder / "a.png", np.zeros((9, 9, 3), np.uint8))
    _predict(folder / "a.png", tmp_path / "out", roi=str(area))
    assert _predict(folder / "a.png", tmp_path / "out", roi=str(area), existing="skip").outcomes[0].skipped
    write_image(area, np.eye(9, dtype=np.uint8))
    with pytest.raises(FileError, match=r"another image or region of interest.*Delete"):
        _predict(folder / "a.png", tmp_path / "out", roi=str(area), existing="skip")


def test_images_of_another_drive_are_recorded_by_their_whole_path(folder, tmp_path, monkeypatch):
    def apart(path, start):
        raise ValueError("path is on mount 'D:', start on mount 'C:'")  # as on Windows

    monkeypatch.setattr("tiledseg.predict.results.os.path.relpath", apart)
    assert len(_predict(folder, tmp_path / "out").done) == 2
    assert all(one.skipped for one in _predict(folder, tmp_path / "out", existing="skip").outcomes)


def test_a_killed_run_that_overwrites_leaves_no_result_under_its_own_name(folder, tmp_path):
    def killed(tiles):
        raise KeyboardInterrupt

    _predict(folder, tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        ts.predict_files(killed, folder, tmp_path / "out", {"existing": "overwrite", "threshold": 0.7})
    record = json.loads((tmp_path / "out" / ".tiledseg-resume.json").read_text())
    assert record["results"] == {}


@pytest.mark.parametrize("text", ["[]", "[" * 9999, '{"runs": {}, "results": {"a": 1}}', "{", "notes"])
def test_a_file_in_the_place_of_the_record_stays(text, folder, tmp_path):
    record = tmp_path / "out" / ".tiledseg-resume.json"
    record.parent.mkdir()
    record.write_text(text)
    with pytest.raises(FileError, match=r"resume\.json` must be a record of results; got"):
        _predict(folder, tmp_path / "out")
    assert record.read_text() == text


def test_a_run_that_would_fail_at_its_end_is_refused_before_anything_is_computed(folder, tmp_path):
    write_image(folder / "a.tif", np.zeros((5, 5, 3), np.uint8))
    with pytest.raises(FileError, match=r"have a name of its own; got the output name of .*a\."):
        ts.predict_files(SEGMENTER, folder, tmp_path / "out")
    with pytest.raises(FileError, match="does-not-exist"):
        ts.predict_files(SEGMENTER, tmp_path / "does-not-exist", tmp_path / "out")
    with pytest.raises(ModelError, match="a callable"):
        ts.predict_files(3, folder / "b.tif", tmp_path / "out")
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(FileError, match="file"):
        ts.predict_files(SEGMENTER, folder / "b.tif", tmp_path / "file")
    assert not (tmp_path / "out" / "masks").exists()


def test_an_output_that_is_an_input_is_refused(tmp_path):
    write_image(tmp_path / "masks" / "a.png", np.zeros((5, 5, 3), np.uint8))
    config = PredictConfig(existing="overwrite")
    with pytest.raises(FileError, match="not overwrite an input"):
        ts.predict_files(SEGMENTER, tmp_path / "masks", tmp_path, config)
    assert read_image(tmp_path / "masks" / "a.png").shape == (5, 5, 3)


def test_an_output_that_is_an_input_under_another_name_is_refused(folder, tmp_path):
    (tmp_path / "out" / "masks").mkdir(parents=True)
    os.link(folder / "a.png", tmp_path / "out" / "masks" / "a.png")  # as where a folder is mounted twice
    with pytest.raises(FileError, match=r"not overwrite an input; got .*a\.png, .*remove the link"):
        _predict(folder / "a.png", tmp_path / "out", existing="overwrite")


def test_results_are_not_taken_for_images(folder, tmp_path):
    out = folder / "out"
    assert len(_predict(folder, out, recursive=True).done) == 3
    with pytest.raises(FileError, match=r"name images, not results.*out/masks/a\.png\. Choose an output"):
        _predict(folder, out, recursive=True, existing="skip")
    assert len(_predict(folder, out, existing="skip").done) == 2


def test_names_that_a_file_system_takes_for_one_are_refused(tmp_path, monkeypatch):
    for place, name in enumerate(["a.png", "A.png"]):
        write_image(tmp_path / str(place) / name, np.zeros((5, 5, 3), np.uint8))
    inputs = [tmp_path / "0", tmp_path / "1"]
    assert len(_predict(inputs, tmp_path / "out").done) == 2
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [".tiledseg-resume.json", "masks"]
    touch = Path.touch

    def insensitive(path, *args, **kwargs):
        touch(path.with_name(path.name.casefold()), *args, **kwargs)

    monkeypatch.setattr(Path, "touch", insensitive)
    with pytest.raises(FileError, match="have a name of its own; got the output name of"):
        _predict(inputs, tmp_path / "other")


@pytest.mark.parametrize("form", ["npy", "ome-tiff"])
def test_names_as_long_as_can_be_are_resumed(form, tmp_path):
    name = "n" * (255 - len(".ome.tif")) + ".png"
    write_image(tmp_path / "a.png", np.zeros((5, 5, 3), np.uint8))
    (tmp_path / "a.png").rename(tmp_path / name)
    done = _predict(tmp_path / name, tmp_path / "out", mask_format=form, resume=True)
    assert str(done) == "1 predicted, 0 skipped, 0 failed"
    assert len(list((tmp_path / "out" / "masks").iterdir())) == 1


@pytest.mark.parametrize("what", ["journal", "part"])
def test_a_file_in_the_place_of_an_unfinished_map_stays(what, folder, tmp_path):
    place = tmp_path / "out" / "masks" / f".a.npy.tiledseg-{what}"
    place.parent.mkdir(parents=True)
    (tmp_path / "thesis.txt").write_text("a thesis")
    place.symlink_to(tmp_path / "thesis.txt")
    done = _predict(folder / "a.png", tmp_path / "out", mask_format="npy", resume=True)
    assert f"tiledseg-{what}` must be of an earlier run" in done.failed[0].error
    place.unlink()
    (place.parent / ".a.npy.tiledseg-journal").write_text("a thesis, too")
    assert _predict(folder / "a.png", tmp_path / "out", mask_format="npy", resume=True).failed
    assert (place.parent / ".a.npy.tiledseg-journal").read_text() == "a thesis, too"
    assert (tmp_path / "thesis.txt").read_text() == "a thesis"


def test_names_that_are_hard_to_write_work(tmp_path):
    names = [b"line\nbreak.png", b"-dash.png", b"latin-\xe9.png", "ümlaut .png".encode()]
    (tmp_path / "images").mkdir()
    write_image(tmp_path / "plain.png", np.full((9, 9, 3), 200, np.uint8))
    for name in names:
        (tmp_path / "images" / os.fsdecode(name)).write_bytes((tmp_path / "plain.png").read_bytes())
    result = ts.predict_files(SEGMENTER, tmp_path / "images", tmp_path / "out")
    assert len(result.done) == 4
    written = (tmp_path / "out" / "masks").iterdir()
    assert sorted(os.fsencode(path.name) for path in written) == sorted(names)


def test_deep_images_and_their_overlays(tmp_path):
    deep = np.random.default_rng(0).integers(0, 4096, (40, 40, 3)).astype(np.uint16)
    write_image(tmp_path / "deep.png", deep)
    config = PredictConfig(write=("overlay", "mask"))
    result = ts.predict_files(lambda t: t[..., :1] / 4096, tmp_path / "deep.png", tmp_path / "out", config)
    assert not result.failed
    assert read_image(tmp_path / "out" / "overlays" / "deep.png").max() > 200
    write_image(tmp_path / "many.tif", np.repeat(deep[..., :1], 5, axis=2))
    ts.predict_files(lambda t: t[..., :1] / 4096, tmp_path / "many.tif", tmp_path / "out5", config)
    assert read_image(tmp_path / "out5" / "overlays" / "many.png").max() > 200


def test_a_looping_link_and_a_failing_network_are_reported(folder, tmp_path):
    (folder / "loop.png").symlink_to("loop.png")
    result = ts.predict_files(SEGMENTER, folder, tmp_path / "out")
    assert [outcome.path.name for outcome in result.failed] == ["loop.png"]

    def failing(_tiles):
        raise RuntimeError("device lost")

    result = ts.predict_files(failing, folder, tmp_path / "out2")
    assert len(result.failed) == 3
    assert "device lost" in str(result)


@pytest.mark.parametrize("inputs", [None, 5, b"images", [["images"]]])
def test_inputs_that_are_no_paths_are_refused(inputs, tmp_path):
    with pytest.raises(FileError, match=r"be a path (as text|or a sequence of paths)"):
        ts.predict_files(SEGMENTER, inputs, tmp_path / "out")


HOLDING = """
import sys, time
from tiledseg._storage import folder_lock
with folder_lock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_folder_takes_one_run_at_a_time_and_the_lock_of_a_killed_one_is_taken_over(folder, tmp_path):
    out = tmp_path / "out"
    root = Path(ts.__file__).parents[1]
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDING, str(out)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    try:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(FileError, match=rf"in use by a run in process {holder.pid}\b"):
            ts.predict_files(SEGMENTER, folder, out)
        assert [path.name for path in out.iterdir()] == [".tiledseg.lock"]
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    assert f"process {holder.pid}\n" in (out / ".tiledseg.lock").read_text()
    assert not ts.predict_files(SEGMENTER, folder, out).failed
    assert sorted(path.name for path in out.iterdir()) == [".tiledseg-resume.json", "masks"]


def test_a_run_that_fails_releases_its_folder(folder, tmp_path):
    def fail():
        with folder_lock(tmp_path / "out"):
            with pytest.raises(FileError, match=f"process {os.getpid()}"):
                ts.predict_files(SEGMENTER, folder, tmp_path / "out")
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        fail()
    assert not ts.predict_files(SEGMENTER, folder, tmp_path / "out").failed


@pytest.mark.parametrize("change", ["touch", "replace", "remove"])
@pytest.mark.parametrize("suffix", [".png", ".npy"])
def test_an_image_that_changes_meanwhile_is_reported(change, suffix, tmp_path):
    paths = [tmp_path / "images" / f"{name}{suffix}" for name in "ab"]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        if suffix == ".png":
            write_image(path, np.full((50, 70, 3), 9, np.uint8))
        else:
            np.save(path, np.full((50, 70, 3), 9, np.uint8))

    def meddling(tiles):
        if change == "touch":
            os.utime(paths[0], (1, 1))
        elif change == "remove":
            paths[0].unlink(missing_ok=True)
        elif paths[0].stat().st_size > 9:
            other = tmp_path / "other"
            other.write_bytes(b"other")
            other.replace(paths[0])
        return tiles[..., :1] / 255

    tiling = ts.TilingConfig(tile_size=128)
    alone = ts.predict_files(meddling, paths[0], tmp_path / "out", tiling=tiling)
    assert re.search("changed while it was read", alone.failed[0].error)
    assert not list((tmp_path / "out" / "masks").iterdir())
    assert not ts.predict_files(meddling, paths[1], tmp_path / "out", tiling=tiling).failed


def grey_as_probs(tiles):
    return tiles[..., :1] / 255


@pytest.mark.parametrize("form", ["png", "ome-tiff", "npy"])
@pytest.mark.parametrize("method", ["otsu", "triangle"])
@pytest.mark.parametrize("faint", [0.1, 0.9])
def test_a_threshold_is_found_on_the_whole_map(method, form, faint, tmp_path):
    rng = np.random.default_rng(1)
    chosen = rng.random((600, 90)) < faint
    values = np.where(chosen, rng.normal(70, 15, chosen.shape), rng.normal(180, 20, chosen.shape))
    grey = values.clip(0, 255).astype(np.uint8)
    write_image(tmp_path / "a.png", np.repeat(grey[..., None], 3, axis=2))
    config = PredictConfig(threshold=method, mask_format=form)
    tiling = ts.TilingConfig(tile_size=64, overlap=0)
    result = ts.predict_files(grey_as_probs, tmp_path / "a.png", tmp_path / "out", config, tiling=tiling)
    assert not result.failed
    (path,) = (tmp_path / "out" / "masks").iterdir()
    found = np.load(path) if form == "npy" else read_image(path)
    flag = cv2.THRESH_OTSU if method == "otsu" else cv2.THRESH_TRIANGLE
    _, wanted = cv2.threshold(grey, 0, 255, cv2.THRESH_BINARY + flag)
    np.testing.assert_array_equal(found, wanted)


def test_a_threshold_by_hand(tmp_path):
    """Of 5 px of 10, 5 of 20 and 10 of 200, Otsu parts the two dark kinds from the light one."""
    grey = np.repeat(np.array([10, 20, 200, 200], np.uint8), 5).reshape(4, 5)
    write_image(tmp_path / "a.png", np.repeat(grey[..., None], 3, axis=2))
    write_image(tmp_path / "flat.png", np.full((4, 5, 3), 30, np.uint8))
    config = PredictConfig(threshold="otsu")
    tiling = ts.TilingConfig(tile_size=32)
    paths = [tmp_path / "a.png", tmp_path / "flat.png"]
    ts.predict_files(grey_as_probs, paths, tmp_path / "out", config, tiling=tiling)
    masks = tmp_path / "out" / "masks"
    np.testing.assert_array_equal(read_image(masks / "a.png"), np.where(grey == 200, 255, 0))
    assert not read_image(masks / "flat.png").any()  # one level is cut at a half


def test_a_threshold_is_not_found_for_several_classes_nor_before_the_end(folder, tmp_path):
    config = PredictConfig(threshold="otsu")
    result = ts.predict_files(lambda tiles: tiles / 765, folder, tmp_path / "out", config)
    assert all("got otsu for 3 classes" in one.error for one in result.failed)
    assert len(result.failed) == 2
    with pytest.raises(SettingError, match="known only at the end"):
        PredictConfig(threshold="otsu", resume=True, mask_format="npy")


def test_masks_are_painted_beside_labels(folder, tmp_path):
    config = PredictConfig(write=("mask", "coloured"), mask_colours=("black", "#00ff00"))
    ts.predict_files(SEGMENTER, folder / "a.png", tmp_path / "out", config)
    mask = read_image(tmp_path / "out" / "masks" / "a.png")
    painted = read_image(tmp_path / "out" / "coloured" / "a.png")
    assert set(np.unique(mask)) == {0, 255}
    np.testing.assert_array_equal(painted, np.stack([mask * 0, mask, mask * 0], axis=-1))
    with pytest.raises(SettingError, match="must be a name or #rrggbb; got mud"):
        PredictConfig(mask_colours=("black", "mud"))


def test_probabilities_are_blurred_before_they_are_cut(tmp_path):
    """A lone px keeps the share of a Gaussian that falls on it: the product of its two middle weights."""
    image = np.zeros((41, 41, 3), np.uint8)
    image[20, 20] = 255
    write_image(tmp_path / "a.png", image)
    config = PredictConfig(write=("mask", "probs"), probs_dtype="float32", blur=1.0, threshold=0.1)
    tiling = ts.TilingConfig(tile_size=32, overlap=8)
    ts.predict_files(grey_as_probs, tmp_path / "a.png", tmp_path / "out", config, tiling=tiling)
    weights = np.exp(-(np.arange(-4, 5) ** 2) / 2)
    weights /= weights.sum()
    wanted = np.zeros((41, 41))
    wanted[16:25, 16:25] = np.outer(weights, weights)
    probs = read_probs(tmp_path / "out" / "probs" / "a.tif").reshape(41, 41)
    np.testing.assert_allclose(probs, wanted, atol=1e-6)
    # the middle has 0.159, each px beside it 0.097: a stated threshold of 0.1 leaves the middle alone
    np.testing.assert_array_equal(read_image(tmp_path / "out" / "masks" / "a.png") > 0, image[..., 0] > 0)
    with pytest.raises(SettingError, match="blur` must be 0 where a map is streamed"):
        PredictConfig(blur=1.0, mask_format="ome-tiff")


@pytest.mark.parametrize("tiling", [ts.TilingConfig(tile_size=33, overlap=0), "512", 5])
def test_a_tiling_that_fits_no_image_is_refused_before_any(tmp_path, tiling):
    write_image(tmp_path / "in" / "a.png", np.zeros((40, 40, 3), np.uint8))
    model = ts.build_model({"name": "unet", "input_shape": (32, 32, 3), "levels": 2, "base_filters": 4})
    with pytest.raises(SettingError, match="til"):
        ts.predict_files(model, tmp_path / "in", tmp_path / "out", tiling=tiling)
    assert not list(tmp_path.glob("out/**/*.png"))


@pytest.mark.parametrize(("dtype", "most"), [(np.uint8, 255), (np.uint16, 65535)])
@pytest.mark.parametrize("pieces", [[40], [1, 39], [13, 13, 14]])
def test_a_png_that_is_written_row_by_row_is_read_by_other_programs(tmp_path, dtype, most, pieces):
    labels = np.random.default_rng(0).integers(0, most + 1, (40, 57)).astype(dtype)
    path, start = tmp_path / "labels.png", 0
    with PngRows(path, labels.shape, np.dtype(dtype)) as out:
        for piece in pieces:
            out[start : start + piece] = labels[start : start + piece]
            start += piece
    np.testing.assert_array_equal(cv2.imread(str(path), cv2.IMREAD_UNCHANGED), labels)
    np.testing.assert_array_equal(np.asarray(Image.open(path)), labels)


def test_a_png_without_all_its_rows_is_not_written(tmp_path):
    with pytest.raises(FileError, match=r"written whole.*got 3 of 5 rows"):  # noqa: SIM117
        with PngRows(tmp_path / "labels.png", (5, 4), np.dtype(np.uint8)) as out:
            out[0:3] = np.zeros((3, 4), np.uint8)
    assert list(tmp_path.iterdir()) == []


def test_a_bar_is_shown_in_a_terminal_with_the_image_that_is_done(tmp_path, monkeypatch, capsys):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    class Eager(tqdm.tqdm):  # the usual one shows nothing new within a tenth of a second
        def __init__(self, **options):
            super().__init__(mininterval=0, **options)

    monkeypatch.setattr("tqdm.tqdm", Eager)
    for name in ("a", "b" * 80):
        write_image(tmp_path / "in" / f"{name}.png", np.zeros((40, 40, 3), np.uint8))
    monkeypatch.setattr(sys, "stderr", Terminal())
    ts.predict_files(lambda tiles: tiles[..., :1] / 255, tmp_path / "in", tmp_path / "out", progress=True)
    assert "2/2" in sys.stderr.getvalue()
    assert "\u2026b" in sys.stderr.getvalue()


def test_an_image_that_would_be_held_in_memory_has_a_largest_size(tmp_path, monkeypatch):
    write_image(tmp_path / "a.png", np.zeros((40, 40, 3), np.uint8))
    monkeypatch.setattr("tiledseg.predict.products.MAX_PIXELS", 1000)
    config = {"write": ("mask", "overlay")}
    result = ts.predict_files(lambda t: t[..., :1] / 255, tmp_path / "a.png", tmp_path / "out", config)
    assert "Set `mask_format` and `probs_format` to ome-tiff" in result.failed[0].error


@pytest.mark.parametrize(("seconds", "left"), [(60, r"\d+ min left"), (4000, r"\d+\.\d h left")])
def test_long_work_says_how_many_minutes_or_hours_are_left(tmp_path, caplog, monkeypatch, seconds, left):
    monkeypatch.setattr("sys.stderr.isatty", lambda: False, raising=False)
    clock = count(0.0, float(seconds))
    monkeypatch.setattr("tiledseg._progress.time", SimpleNamespace(monotonic=lambda: next(clock)))
    write_image(tmp_path / "a.png", np.zeros((300, 320, 3), np.uint8))
    tiling = {"tile_size": 128, "overlap": 0}
    with caplog.at_level("INFO", "tiledseg"):
        ts.predict_files(
            lambda tiles: tiles[..., :1] / 255,
            tmp_path / "a.png",
            tmp_path / "out",
            tiling=tiling,
            progress=True,
        )
    assert re.search(left, caplog.text)


def test_progress_counts_the_tiles_of_an_image_and_says_how_long_it_takes(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: False, raising=False)
    clock = count(0.0, 4.0)  # each look at it takes 4 s
    monkeypatch.setattr("tiledseg._progress.time", SimpleNamespace(monotonic=lambda: next(clock)))
    write_image(tmp_path / "a.png", np.zeros((600, 640, 3), np.uint8))
    with caplog.at_level("INFO", "tiledseg"):
        ts.predict_files(
            lambda tiles: tiles[..., :1] / 255,
            tmp_path / "a.png",
            tmp_path / "out",
            tiling={"tile_size": 128, "overlap": 0},
            progress=True,
        )
    lines = [line for line in caplog.messages if line.startswith("images: ")]
    assert len(lines) == 4
    assert lines[0] == "images: 12 % (a.png: tile 3 of 25), 88 s left"
    assert lines[-1] == "images: 100 % (1 of 1)"


def test_a_short_job_logs_its_last_line_only(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: False, raising=False)
    write_image(tmp_path / "a.png", np.zeros((600, 640, 3), np.uint8))
    with caplog.at_level("INFO", "tiledseg"):
        ts.predict_files(
            lambda tiles: tiles[..., :1] / 255, tmp_path / "a.png", tmp_path / "out", progress=True
        )
    assert [line for line in caplog.messages if ": " in line][-1] == "images: 100 % (1 of 1)"
    assert sum(line.startswith("images: ") for line in caplog.messages) == 1


def test_eight_copies_of_an_image_that_is_smaller_than_a_tile(folder, tmp_path):
    inputs = keras.Input((None, None, 3))
    model = keras.Model(inputs, keras.layers.Conv2D(1, (5, 1), padding="same", activation="sigmoid")(inputs))
    config = PredictConfig(write=("probs",), probs_format="npy", probs_dtype="float32", tta="d4")
    tiling = {"tile_size": 64, "overlap": 16}
    result = ts.predict_files(model, folder / "a.png", tmp_path / "out", config, tiling=tiling)
    assert not result.failed
    alone = ts.tiled_predict(model, folder / "a.png", tiling, tta="d4")
    np.testing.assert_allclose(np.load(tmp_path / "out" / "probs" / "a.npy"), alone, atol=1e-6)
