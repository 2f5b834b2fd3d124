"""Objects of a map as a result: labels, and a table that other tools take."""

from __future__ import annotations

import importlib
import io
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from tiledseg._lazy import extra
from tiledseg._storage import atomic_write
from tiledseg._validate import counted, invalid, named, path_text
from tiledseg.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from typing import BinaryIO

    from tiledseg._types import AnyArray, PathLike
    from tiledseg.io import PixelSize

_ROWS = 1 << 16  # that are written at a time
_PLACE = ("centroid_x", "centroid_y")
_NOT_MEASURED = {
    "label", "class", "box_y0", "box_x0", "box_y1", "box_x1", *_PLACE, "centroid_y_um", "centroid_x_um"
}  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Objects:
    """The objects of a map.

    Attributes
    ----------
    labels : array
        The number of the object that each px belongs to, (H, W) uint32, 0 for the background: an array, or
        the path of the file where one was given; None where no labels were asked for.
    table : dict of str to numpy.ndarray
        Columns by name, with a row for each object; see `label_objects`. Those of millions of objects
        lie in a temporary file.
    n_unsplit : int
        How many areas were to be split, but have larger boxes than ``split_max_px`` and stayed whole.
    pixel_size : PixelSize or None
        Size of a px of the map, where it is known.
    """

    labels: Any
    table: dict[str, AnyArray]
    n_unsplit: int = 0
    pixel_size: PixelSize | None = None

    def __len__(self) -> int:
        return len(self.table["label"])

    def __repr__(self) -> str:
        return f"Objects({counted(len(self), 'object')}, {counted(len(self.table), 'column')})"

    def to_pandas(self) -> Any:  # pandas may be missing
        """Return the table as a pandas.DataFrame.

        Returns
        -------
        pandas.DataFrame
            One row for each object, with its label as the index.

        Raises
        ------
        SettingError
            If pandas is not installed; the extra ``table`` installs it.
        """
        return extra("pandas", "table").DataFrame(self.table).set_index("label")

    def to_arrow(self) -> Any:  # pyarrow may be missing
        """Return the table as a pyarrow.Table.

        Returns
        -------
        pyarrow.Table
            One row for each object.

        Raises
        ------
        SettingError
            If pyarrow is not installed; the extra ``table`` installs it.
        """
        return extra("pyarrow", "table").table({name: np.asarray(one) for name, one in self.table.items()})

    def to_anndata(self) -> Any:  # anndata may be missing
        """Return the table as an anndata.AnnData, as scanpy, squidpy and napari-spatialdata take it.

        Returns
        -------
        anndata.AnnData
            ``X`` has the measurements; ``obs`` label, class and box; ``obsm["spatial"]`` the centroids (x, y)
            in px.

        Raises
        ------
        SettingError
            If anndata is not installed.
        """
        try:
            anndata = importlib.import_module("anndata")
        except ModuleNotFoundError:
            text = "This needs `anndata`, which is not installed. Run `pip install anndata`."
            raise SettingError(text) from None
        pandas = extra("pandas", "table")
        names = [name for name in self.table if name not in _NOT_MEASURED]
        rest = {name: self.table[name] for name in self.table if name in _NOT_MEASURED - {*_PLACE}}
        index = pandas.Index(self.table["label"].astype(str), name="object")
        none = np.empty((len(self), 0))
        return anndata.AnnData(
            np.stack([self.table[name] for name in names], axis=1, dtype=np.float64, casting="unsafe")
            if names
            else none,
            obs=pandas.DataFrame(rest).set_index(index),
            var=pandas.DataFrame(index=names),
            obsm={"spatial": np.stack([self.table[name] for name in _PLACE], axis=1)},
        )

    def write_table(self, path: PathLike) -> None:
        """Write the table to a file, a part of the rows at a time; whole or not at all.

        Parameters
        ----------
        path : str or PathLike
            With the suffix ``.csv``, or ``.parquet`` (extra ``table``). NaN is written as ``nan``.

        Raises
        ------
        SettingError
            If the suffix is another one, or pyarrow is not installed for Parquet.
        FileError
            If the file cannot be written.
        """
        text = path_text(path)
        writers = {".csv": _write_csv, ".parquet": _write_parquet}
        write = next((one for suffix, one in writers.items() if text.lower().endswith(suffix)), None)
        if write is None:
            fix = "Use .csv or .parquet."
            raise invalid(SettingError, "path", must="have the suffix of a table", got=named(text), fix=fix)
        if write is _write_parquet:
            extra("pyarrow", "table")
        with atomic_write(path) as file:
            write(file, self.table)


def _parts(table: dict[str, AnyArray]) -> Iterator[dict[str, AnyArray]]:
    """Divide the rows of a table; an empty one has an empty part."""
    for first in range(0, max(1, len(table["label"])), _ROWS):
        yield {name: np.asarray(column[first : first + _ROWS]) for name, column in table.items()}


def _write_csv(file: BinaryIO, table: dict[str, AnyArray]) -> None:
    file.write((",".join(table) + "\n").encode())
    for part in _parts(table):
        columns = (map(repr, column.tolist()) for column in part.values())
        text = io.StringIO()
        text.writelines(",".join(row) + "\n" for row in zip(*columns, strict=True))
        file.write(text.getvalue().encode())


def _write_parquet(file: BinaryIO, table: dict[str, AnyArray]) -> None:
    arrow, parquet = extra("pyarrow", "table"), extra("pyarrow.parquet", "table")
    parts = (arrow.table(part) for part in _parts(table))
    first = next(parts)
    with parquet.ParquetWriter(file, first.schema) as writer:
        writer.write_table(first)
        for part in parts:
            writer.write_table(part)


def read_table(path: Path, names: Sequence[str]) -> dict[str, AnyArray]:
    """Read some columns of a written table, those of them that it has."""
    if path.suffix.lower() == ".parquet":
        file = extra("pyarrow.parquet", "table").ParquetFile(path)
        columns = file.read([name for name in names if name in file.schema.names])
        return {name: columns[name].to_numpy() for name in columns.column_names}
    with path.open(encoding="utf-8") as lines:
        header = lines.readline().rstrip("\n").split(",")
        places = [header.index(name) for name in names if name in header]
        first = next(lines, None)
        rows = () if first is None else np.loadtxt(chain([first], lines), delimiter=",", usecols=places)
    values = np.reshape(rows, (-1, len(places))).T
    return {header[place]: column for place, column in zip(places, values, strict=True)}
