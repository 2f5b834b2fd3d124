"""The table of objects in other tools: the same values, read back by these tools."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from tiledseg.errors import FileError, SettingError
from tiledseg.objects import Objects, label_objects

pandas = pytest.importorskip("pandas")


@pytest.fixture(scope="module")
def objects() -> Objects:
    """Label a map of many objects."""
    rng = np.random.default_rng(1)
    mask = (rng.random((80, 60)) < 0.3).astype(np.uint8)
    return label_objects(mask, image=rng.integers(0, 255, (80, 60, 2), dtype=np.uint8))


def same(frame: pandas.DataFrame, objects: Objects) -> None:
    """Check that a data frame has the columns of the table, in order and bit for bit."""
    assert frame.columns.tolist() == list(objects.table)
    for name, column in objects.table.items():
        np.testing.assert_array_equal(frame[name].to_numpy(), column, err_msg=name)


def test_the_table_becomes_a_data_frame(objects):
    frame = objects.to_pandas()
    assert frame.index.tolist() == list(range(1, len(objects) + 1))
    same(frame.reset_index(), objects)


def test_csv_is_read_back_by_pandas(objects, tmp_path, monkeypatch):
    monkeypatch.setattr("tiledseg.objects.table._ROWS", 100)
    objects.write_table(tmp_path / "objects.csv")
    same(pandas.read_csv(tmp_path / "objects.csv", float_precision="round_trip"), objects)


def test_parquet_and_arrow_are_read_back(objects, tmp_path, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr("tiledseg.objects.table._ROWS", 100)
    objects.write_table(tmp_path / "objects.parquet")
    assert parquet.ParquetFile(tmp_path / "objects.parquet").num_row_groups > 1
    same(pandas.read_parquet(tmp_path / "objects.parquet"), objects)
    same(objects.to_arrow().to_pandas(), objects)


def test_a_table_without_objects_is_written(tmp_path):
    pytest.importorskip("pyarrow")
    empty = label_objects(np.zeros((4, 4), np.uint8))
    for name, read in (("a.csv", pandas.read_csv), ("a.parquet", pandas.read_parquet)):
        empty.write_table(tmp_path / name)
        frame = read(tmp_path / name)
        assert (len(frame), frame.columns.tolist()) == (0, list(empty.table))


def test_anndata_has_measurements_and_places(objects):
    pytest.importorskip("anndata")
    data = objects.to_anndata()
    assert data.obs_names[:2].tolist() == ["1", "2"]
    np.testing.assert_array_equal(data[:, "area"].X.ravel(), objects.table["area"])
    np.testing.assert_array_equal(data.obsm["spatial"][:, 0], objects.table["centroid_x"])
    assert data.obs["class"].tolist() == objects.table["class"].tolist()
    assert "box_y0" not in data.var_names


def test_what_cannot_be_written_is_refused(objects, tmp_path):
    with pytest.raises(SettingError, match=r"Use \.csv or \.parquet"):
        objects.write_table(tmp_path / "objects.xlsx")
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="file"):
        objects.write_table(tmp_path / "file" / "objects.csv")


def test_a_missing_library_is_named(objects, monkeypatch):
    for module in ("anndata", "pyarrow"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SettingError, match=r"pip install anndata"):
        objects.to_anndata()
    with pytest.raises(SettingError, match=r"tiledseg\[table\]"):
        objects.to_arrow()


def test_objects_are_shown_in_a_line():
    objects = label_objects(np.array([[1, 0, 1]]), measure=False)
    assert repr(objects) == "Objects(2 objects, 7 columns)"
