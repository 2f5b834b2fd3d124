"""Label maps in the OME-Zarr of their own image."""

import hashlib
import json
import os
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import warm_python

import tiledseg as ts
from tiledseg.config import PredictConfig, PreprocessingConfig
from tiledseg.errors import ArrayError, FileError, SettingError
from tiledseg.io import PixelSize, create_image, open_image, read_image, write_labels

zarr = pytest.importorskip("zarr")
yaozarrs = pytest.importorskip("yaozarrs")

LABELS = np.random.default_rng(0).integers(0, 70000, (1100, 700), np.uint32)


def image_05(path):
    pixels = np.random.default_rng(1).integers(0, 256, (1100, 700, 3), np.uint8)
    with create_image(path, pixels.shape, np.uint8, pixel_size=PixelSize(0.5, 0.25)) as out:
        out[0:1100] = pixels
    return path


def image_04(path):
    """An image of zarr 2 as other programs write it, with levels of a third."""
    group = zarr.open_group(path, mode="w", zarr_format=2)
    datasets = []
    for level, factor in enumerate((1, 3)):
        shape = (2, -(-1100 // factor), -(-700 // factor))
        group.create_array(str(level), shape=shape, chunks=(1, 256, 256), dtype="u1")
        scale = [1.0, 0.5 * factor, 0.25 * factor]
        datasets.append(
            {"path": str(level), "coordinateTransformations": [{"type": "scale", "scale": scale}]}
        )
    axes = [{"name": "c", "type": "channel"}]
    axes += [{"name": name, "type": "space", "unit": "micrometer"} for name in "yx"]
    group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": datasets}]
    return path


def state_of(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file() and "labels" not in path.parts)
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("make", [image_05, image_04])
def test_labels_are_written_beside_the_levels_of_the_image(tmp_path, make):
    path = make(tmp_path / "image.zarr")
    before = state_of(path)
    assert write_labels(path, "cells", LABELS) == path / "labels" / "cells"
    write_labels(path, "nuclei", LABELS > 9)
    assert state_of(path) == before
    yaozarrs.validate_zarr_store(str(path))
    group = zarr.open_group(path / "labels", mode="r")
    attributes = dict(group.attrs)
    assert attributes.get("ome", attributes)["labels"] == ["cells", "nuclei"]
    own = dict(group["cells"].attrs)
    assert own.get("ome", own)["image-label"]["source"] == {"image": "../../"}
    with open_image(path) as image:
        levels = image.levels
    for level, shape in enumerate(levels):
        with (
            open_image(path / "labels" / "cells", level=level) as found,
            open_image(path, level=level) as own,
        ):
            assert (found.shape, found.pixel_size) == (shape, own.pixel_size)
            rows, columns = (
                (2 * np.arange(small) + 1) * large // (2 * small)
                for small, large in zip(shape, LABELS.shape, strict=True)
            )
            np.testing.assert_array_equal(found, LABELS[np.ix_(rows, columns)])
    assert [one.name for one in (path / "labels").iterdir() if one.name.startswith(".tiledseg")] == []


def test_a_name_that_exists_is_refused_and_nothing_changes(tmp_path):
    path = image_05(tmp_path / "image.ome.zarr")
    write_labels(path, "cells", LABELS)
    with pytest.raises(FileError, match=r"labels/cells yet.*another name"):
        write_labels(path, "cells", LABELS * 0)
    np.testing.assert_array_equal(read_image(path / "labels" / "cells"), LABELS)


def test_names_that_could_leave_the_folder_are_refused(tmp_path):
    path = image_05(tmp_path / "image.ome.zarr")
    for name in ("", "..", "a/b", ".hidden", "zarr.json", "__a", "a" * 101, "\n"):
        with pytest.raises(SettingError, match="letters, digits"):
            write_labels(path, name, LABELS)


@pytest.mark.parametrize(
    ("labels", "hint"),
    [
        (LABELS[:-1], "level 0"),
        (np.broadcast_to(0.5, LABELS.shape), "astype"),
        (np.broadcast_to(-1, LABELS.shape), "Renumber"),
    ],
)
def test_labels_that_do_not_fit_leave_no_trace(tmp_path, labels, hint):
    path = image_05(tmp_path / "image.ome.zarr")
    with pytest.raises(ArrayError, match=hint):
        write_labels(path, "cells", labels)
    assert not (path / "labels" / "cells").exists()
    assert not list(path.rglob(".tiledseg*"))
    yaozarrs.validate_zarr_store(str(path))


def test_other_folders_and_files_are_refused(tmp_path):
    path = image_05(tmp_path / "image.ome.zarr")
    write_labels(path, "cells", LABELS)
    with pytest.raises(FileError, match="got a label map"):
        write_labels(path / "labels" / "cells", "again", LABELS)
    with pytest.raises(FileError, match="got another file"):
        write_labels(tmp_path, "cells", LABELS)


@pytest.mark.filterwarnings("ignore:Consolidated metadata is currently not part")
@pytest.mark.parametrize("make", [image_05, image_04])
def test_labels_are_listed_in_consolidated_metadata_and_the_rest_of_them_stays(tmp_path, make):
    path = make(tmp_path / "image.zarr")
    zarr.consolidate_metadata(path)
    before, shown = state_of(path), zarr.open_consolidated(path).tree()
    whole = zarr.open_group(path, mode="r", use_consolidated=False)["0"][:]
    write_labels(path, "cells", LABELS)
    write_labels(path, "nuclei", LABELS > 9)
    changed = {one.name for one, digest in state_of(path).items() if before[one] != digest}
    assert changed == {".zmetadata" if (path / ".zmetadata").exists() else "zarr.json"}
    group = zarr.open_consolidated(path)
    assert str(shown) != str(group.tree())
    assert sorted(group["labels"]) == ["cells", "nuclei"]
    np.testing.assert_array_equal(group["labels/cells/0"][:], LABELS)
    np.testing.assert_array_equal(group["0"][:], whole)
    kept = dict(group.attrs)
    assert kept == dict(zarr.open_group(path, mode="r", use_consolidated=False).attrs)
    yaozarrs.validate_zarr_store(str(path))


@pytest.mark.filterwarnings("ignore:Consolidated metadata is currently not part")
@pytest.mark.parametrize("make", [image_05, image_04])
def test_labels_are_listed_where_a_group_around_the_image_is_consolidated(tmp_path, make):
    plate = tmp_path / "plate.zarr"
    kind = 3 if make is image_05 else 2
    zarr.open_group(plate, mode="w", zarr_format=kind).create_group("A").create_group("1")
    image, other = make(plate / "A" / "1" / "0.zarr"), make(plate / "A" / "1" / "1.zarr")
    zarr.consolidate_metadata(plate)
    write_labels(image, "cells", LABELS)
    group = zarr.open_consolidated(plate)
    np.testing.assert_array_equal(group["A/1/0.zarr/labels/cells/0"][:], LABELS)
    assert "labels" not in group[f"A/1/{other.name}"]
    write_labels(image, "nuclei", LABELS)
    assert sorted(zarr.open_consolidated(plate)["A/1/0.zarr/labels"]) == ["cells", "nuclei"]


@pytest.mark.parametrize("text", ["[]", '{"metadata": 3}', "{"])
def test_consolidated_metadata_that_cannot_be_read_are_refused_before_anything_is_written(tmp_path, text):
    path = image_04(tmp_path / "image.zarr")
    (path / ".zmetadata").write_text(text)
    with pytest.raises(FileError, match="readable metadata"):
        write_labels(path, "cells", LABELS)
    assert not (path / "labels").exists()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anything")
def test_a_read_only_image_is_refused(tmp_path):
    path = image_05(tmp_path / "image.ome.zarr")
    path.chmod(0o500)
    with pytest.raises(FileError, match="writable"):
        write_labels(path, "cells", LABELS)


_KILLED = """
import os, signal, sys, numpy as np
from tiledseg.io import write_labels
class Labels:
    shape, dtype, reads = (1100, 700), np.dtype("u4"), 0
    def __getitem__(self, key):
        self.reads += 1
        if self.reads > 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return np.ones((1100, 700), "u4")[key]
write_labels(sys.argv[1], "cells", Labels())
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no SIGKILL")
def test_a_kill_in_the_middle_harms_nothing_and_its_rest_is_removed(tmp_path):
    path = image_05(tmp_path / "image.ome.zarr")
    before = state_of(path)
    done = warm_python.run(_KILLED, path)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert state_of(path) == before
    assert not (path / "labels" / "cells").exists()
    assert len(list((path / "labels").glob(".tiledseg-*.part"))) == 1
    write_labels(path, "cells", LABELS)
    assert [one.name for one in (path / "labels").iterdir() if one.name.startswith(".tiledseg")] == []
    np.testing.assert_array_equal(read_image(path / "labels" / "cells"), LABELS)


@pytest.mark.parametrize("form", ["png", "ome-zarr"])
def test_masks_go_into_the_image_only_on_request(tmp_path, form):
    path = image_05(tmp_path / "image.ome.zarr")
    model = SimpleNamespace(
        network=lambda tiles: tiles[..., :1],
        preprocessing=PreprocessingConfig(),
        labels=("cell",),
        threshold=0.5,
        tiling=ts.TilingConfig(tile_size=256, overlap=0),
    )
    ts.predict_files(model, path, tmp_path / "plain", PredictConfig(mask_format=form))
    assert not (path / "labels").exists()
    config = PredictConfig(mask_format=form, into_image="cells")
    (outcome,) = ts.predict_files(model, path, tmp_path / "out", config).done
    found = read_image(path / "labels" / "cells")
    np.testing.assert_array_equal(found, read_image(path)[..., 0] >= 127.5)
    np.testing.assert_array_equal(found > 0, read_image(outcome.written["mask"]) > 0)
    yaozarrs.validate_zarr_store(str(path))
    with pytest.raises(FileError, match="labels/cells yet"):
        ts.predict_files(model, path, tmp_path / "second", config)
    again = ts.predict_files(model, path, tmp_path / "out", config.changed(existing="skip"))
    assert [one.skipped for one in again.outcomes] == [True]
    with pytest.raises(SettingError, match="level=0"):
        PredictConfig(into_image="cells", level=1)


def test_labels_of_objects_go_into_the_image_where_no_masks_are_written(tmp_path):
    path = image_05(tmp_path / "image.ome.zarr")
    config = PredictConfig(write=("labels",), into_image="cells", threshold=0.9)
    tiling = {"tile_size": 256, "overlap": 0}
    (outcome,) = ts.predict_files(
        lambda tiles: tiles[..., :1] / 255, path, tmp_path / "out", config, tiling=tiling
    ).done
    found = read_image(path / "labels" / "cells")
    assert found.dtype == np.uint32
    np.testing.assert_array_equal(found, read_image(outcome.written["labels"]))


def test_metadata_of_other_programs_in_labels_stay(tmp_path):
    path = image_05(tmp_path / "image.ome.zarr")
    write_labels(path, "cells", LABELS)
    listed = path / "labels" / "zarr.json"
    group = json.loads(listed.read_text())
    group["attributes"]["other"] = {"a": 1}
    listed.write_text(json.dumps(group))
    write_labels(path, "nuclei", LABELS)
    attributes = json.loads(listed.read_text())["attributes"]
    assert attributes == {"ome": {"version": "0.5", "labels": ["cells", "nuclei"]}, "other": {"a": 1}}
