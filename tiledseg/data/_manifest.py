"""Manifests: which image belongs to which split, in JSON lines that hold on any machine."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tiledseg._validate import did_you_mean, invalid, path_text, shown
from tiledseg.config import Record
from tiledseg.data._pairs import Pair, natural
from tiledseg.data._problems import Problem
from tiledseg.data._records import as_records
from tiledseg.errors import FileError, TiledSegError
from tiledseg.io import file_digest, write_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tiledseg._types import PathLike

__all__ = ["Manifest", "check_disjoint", "write_manifest"]

_LARGEST = 2**30


@dataclass(frozen=True, slots=True)
class Manifest:
    """The records of a dataset, and the folder that their paths start from.

    Attributes
    ----------
    folder : Path
        The manifest's folder.
    records : tuple of Record
        One for each image.
    """

    folder: Path
    records: tuple[Record, ...]

    @classmethod
    def read(cls, path: PathLike) -> Manifest:
        """Read a manifest, and check that its splits are disjoint.

        Parameters
        ----------
        path : path
            A file of JSON lines.

        Returns
        -------
        Manifest
            Its records.

        Raises
        ------
        FileError
            If it cannot be read, a line is no record, or an image, a group or a digest occurs in
            two splits.
        """
        file = Path(path_text(path))
        try:
            with file.open("rb") as handle:
                lines = handle.read(_LARGEST + 1).decode("utf-8").split("\n")
        except (OSError, ValueError) as error:
            fix = "Write one with tiledseg split."
            raise invalid(
                FileError, str(file), must="be a manifest in UTF-8", got=str(error), fix=fix
            ) from error
        records = tuple(_record(file, number, line) for number, line in enumerate(lines, 1) if line.strip())
        if not records:
            fix = "Write one with tiledseg split."
            raise invalid(FileError, str(file), must="hold at least one record", got="none", fix=fix)
        check_disjoint(records)
        return cls(file.parent, records)

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits, the largest first."""
        counts = Counter(record.split for record in self.records)
        return tuple(sorted(counts, key=lambda split: (-counts[split], split)))

    def of(self, split: str | None) -> list[Record]:
        """List the records of a split.

        Parameters
        ----------
        split : str or None
            Its name; None for all.

        Returns
        -------
        list of Record
            In natural order of the names.

        Raises
        ------
        FileError
            If there is no such split.
        """
        known = isinstance(split, str) and split in self.splits
        if split is not None and not known:
            raise invalid(
                FileError,
                "split",
                must=f"be a split of the manifest in {self.folder}",
                got=split,
                fix=did_you_mean(split, self.splits),
            )
        some = [record for record in self.records if split in {None, record.split}]
        return sorted(some, key=lambda record: natural(record.name))

    def pairs(self, split: str | None = None) -> list[Pair]:
        """List the pairs of a split.

        Parameters
        ----------
        split : str or None
            Its name; None for all.

        Returns
        -------
        list of Pair
            In natural order of the names.

        Raises
        ------
        FileError
            If there is no such split.
        """
        return [self._pair(record) for record in self.of(split)]

    def changed(self, split: str | None = None) -> list[Problem]:
        """Compare the files of a split with their digests.

        Parameters
        ----------
        split : str or None
            Its name; None for all.

        Returns
        -------
        list of Problem
            What is missing, or is another file than when the manifest was written.

        Raises
        ------
        FileError
            If there is no such split.
        """
        found = (self._problem(record) for record in self.of(split))
        return [problem for problem in found if problem is not None]

    def _pair(self, record: Record) -> Pair:
        masks = tuple(self.folder / mask for mask in record.masks)
        return Pair(
            record.name,
            self.folder / record.image,
            masks[0] if len(masks) == 1 else masks,
            record.mask_threshold,
            record.mask_parts,
            record.class_values,
        )

    def _problem(self, record: Record) -> Problem | None:
        files = zip((record.image, *record.masks), (record.digest, *record.mask_digests), strict=True)
        for path, digest in files:
            try:
                found = file_digest(self.folder / path)
            except TiledSegError as error:
                return Problem("unreadable", record.name, str(error))
            if found != digest:
                return Problem("changed", record.name, f"{path} is not the file that it was.")
        return None


def write_manifest(path: PathLike, records: Sequence[Record], *, overwrite: bool = False) -> None:
    """Write records as JSON lines, whole or not at all, in natural order of the names.

    Parameters
    ----------
    path : path
        The target.
    records : sequence of Record
        One for each image, with paths relative to the target's folder.
    overwrite : bool
        Whether another file of that name is replaced: results may rest on the split that it states.

    Raises
    ------
    SettingError
        If there is no record.
    FileError
        If an image, a group or a digest occurs in two splits, the file is there and says something
        else, or it cannot be written.
    """
    known = as_records(records)
    check_disjoint(known)
    ordered = sorted(known, key=lambda record: natural(record.name))
    lines = [record.model_dump_json(exclude_defaults=True) for record in ordered]
    text = "\n".join([*lines, ""])
    target = Path(path_text(path))
    if target.is_file() and not overwrite and target.read_bytes() != text.encode():
        raise invalid(
            FileError,
            str(path),
            must="be free, or hold these records already",
            got="a file that says something else",
            fix="Choose another name, or remove it first; overwrite=True replaces it.",
        )
    write_text(path, text)


def check_disjoint(records: Sequence[Record]) -> None:
    """Check that no image, no group and no content is in two splits, and none twice."""
    names: set[str] = set()
    places: dict[tuple[str, str], Record] = {}
    for record in as_records(records):
        if record.name in names:
            raise _twice("name", record.name, "one record")
        names.add(record.name)
        path = os.path.normpath(record.image)
        for what, value in (("image", path), ("group", record.group), ("digest", record.source)):
            other = places.setdefault((what, value), record)
            if other.split != record.split:
                where = f"one split; {shown(other.name)} is in {shown(other.split)}, "
                raise _twice(what, value, f"{where}{shown(record.name)} in {shown(record.split)}")


def _twice(what: str, value: str, must: str) -> FileError:
    fix = "Split the data again: tiledseg split keeps groups and copies together."
    return invalid(FileError, what, must=f"occur in {must}", got=value, fix=fix)


def _record(path: Path, number: int, line: str) -> Record:
    try:
        return Record.from_json(line)
    except TiledSegError as error:
        raise FileError(f"{shown(str(path))}, line {number}: {error}") from None
