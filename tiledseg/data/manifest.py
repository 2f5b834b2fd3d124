"""Manifests: which image belongs to which split, as JSON lines that are valid on any machine."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

import numpy as np

from tiledseg._progress import progress_bar
from tiledseg._storage import file_digest, is_file, open_regular, write_text
from tiledseg._validate import all_of, did_you_mean, invalid, path_text, shown
from tiledseg.config import MaskConfig, Record
from tiledseg.data.load import CELL_FILES, load_both, log_meanings
from tiledseg.data.pairs import Pair, Problem, as_pairs, each_pair, mask_files, natural
from tiledseg.errors import FileError, SettingError, TiledSegError
from tiledseg.io import IGNORED, is_remote

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tiledseg._types import AnyArray, PathLike

_LARGEST = 2**30  # bytes
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


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
            If it cannot be read, a line is no record, a name or a split is no plain component of a
            path, or an image, a group or a digest occurs in two splits.
        """
        file = Path(path_text(path))
        lines = enumerate(read_text(file).split("\n"), 1)
        records = tuple(_record(file, number, line) for number, line in lines if line.strip())
        if not records:
            fix = "Write one with tiledseg split."
            raise invalid(FileError, str(file), must="hold at least one record", got="none", fix=fix)
        check_disjoint(records)
        return cls(file.parent, records)

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits: train, valid and test, then others, the largest first."""
        return ordered_splits(record.split for record in self.records)

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
            must, fix = f"be a split of the manifest in {self.folder}", did_you_mean(split, self.splits)
            raise invalid(FileError, "split", must=must, got=split, fix=fix)
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
            Files that are missing, or have changed since the manifest was written.

        Raises
        ------
        FileError
            If there is no such split.
        """
        found = (self._problem(record) for record in self.of(split))
        return [problem for problem in found if problem is not None]

    def _pair(self, record: Record) -> Pair:
        masks = tuple(self.folder / mask for mask in record.masks)
        each = record.origin is None and record.mask_found.startswith(CELL_FILES)
        return Pair(
            record.name,
            self.folder / record.image,
            masks if each or len(masks) > 1 else masks[0],
            **record.masking,
            **record.reading,
        )

    def _problem(self, record: Record) -> Problem | None:
        files = zip((record.image, *record.masks), (record.digest, *record.mask_digests), strict=True)
        for path, digest in files:
            try:
                found = file_digest(self.folder / path)
            except TiledSegError as error:
                return Problem("unreadable", record.name, str(error))
            if found != digest:
                return Problem("changed", record.name, f"{path} differs from the file that was recorded.")
        return None


def read_text(path: Path) -> str:
    """Read a regular file of text in UTF-8, or in UTF-16 that says so, of limited size."""
    with open_regular(path) as file:
        data = file.read(_LARGEST + 1)
    if len(data) > _LARGEST:
        must, fix = f"have at most {_LARGEST >> 20} MiB", "Split the dataset into several files."
        raise invalid(FileError, str(path), must=must, got="more", fix=fix)
    fix = "Save it again in UTF-8."
    try:
        text = data.decode("utf-16" if data.startswith(_UTF_16) else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise invalid(FileError, str(path), must="be text in UTF-8", got=error, fix=fix) from error
    if "\0" in text:  # UTF-16 that does not say so, for example
        raise invalid(FileError, str(path), must="be text in UTF-8", got="characters of 0", fix=fix)
    return text


def _record(path: Path, number: int, line: str) -> Record:
    try:
        return Record.from_json(line)
    except TiledSegError as error:
        raise FileError(f"{shown(str(path))}, line {number}: {error}") from None


def write_manifest(path: PathLike, records: Sequence[Record], *, overwrite: bool = False) -> None:
    """Write records as JSON lines, whole or not at all, in natural order of the names.

    Parameters
    ----------
    path : path
        The target.
    records : sequence of Record
        One for each image, with paths relative to the target's folder.
    overwrite : bool
        Whether another manifest of that name is replaced. Results may depend on its split.

    Raises
    ------
    SettingError
        If there is no record.
    FileError
        If an image, a group or a digest occurs in two splits, another manifest is there, or the file
        cannot be written.
    """
    known = as_records(records)
    check_disjoint(known)
    ordered = sorted(known, key=lambda record: natural(record.name))
    text = "".join(f"{record.model_dump_json(exclude_defaults=True)}\n" for record in ordered)
    target = Path(path_text(path))
    if is_file(target) and not overwrite and target.read_bytes() != text.encode():
        raise invalid(
            FileError,
            str(path),
            must="be a new file, or hold these records already",
            got="a file with other content",
            fix="Choose another name, or remove it first.",
        )
    write_text(path, text)


def as_records(records: object) -> list[Record]:
    """Check that an argument holds at least one record."""
    fix = "Make them with tiledseg.data.describe."
    known = all_of(Record, records, "records", fix)
    if not known:
        raise invalid(SettingError, "records", must="hold at least one record", got="none", fix=fix)
    return known


def check_disjoint(records: Sequence[Record]) -> None:
    """Check that no image, no group and no content is in two splits, and none twice."""
    names: set[str] = set()
    places: dict[tuple[str, str], Record] = {}
    for record in as_records(records):
        if record.name in names:
            raise _repeated("name", record.name, "one record")
        names.add(record.name)
        path = os.path.normpath(record.image)
        for what, value in (("image", path), ("group", record.group), ("digest", record.source)):
            other = places.setdefault((what, value), record)
            if other.split != record.split:
                first, second = (f"{shown(one.name)} is in {shown(one.split)}" for one in (other, record))
                raise _repeated(what, value, f"one split; {first}, {second}")


def _repeated(what: str, value: str, must: str) -> FileError:
    fix = "Split the data again: tiledseg split keeps groups and copies together."
    return invalid(FileError, what, must=f"occur in {must}", got=value, fix=fix)


def describe(pairs: Sequence[Pair], folder: PathLike, *, progress: bool = False) -> list[Record]:
    """Read all files of pairs, make their records, with paths relative to a folder, and tell of the masks."""
    records = read_records(pairs, folder, progress=progress)
    log_meanings(record.mask_found for record in records)
    return records


def read_records(
    pairs: Sequence[Pair], folder: PathLike, classes: int | None = None, *, progress: bool = False
) -> list[Record]:
    """Read all files of pairs, and make their records, with paths relative to a folder."""
    pairs, target = as_pairs(pairs, "pairs"), Path(path_text(folder, "folder"))
    with progress_bar(len(pairs), "images", shown=progress) as step:

        def one(pair: Pair) -> Record:
            record = _described(pair, target, classes)
            step(1)
            return record

        return each_pair(pairs, one)


def ordered_splits(splits: Iterable[str]) -> tuple[str, ...]:
    """Name each split once: train, valid and test, then others, the largest first."""
    counts, usual = Counter(splits), {"train": 0, "valid": 1, "test": 2}
    return tuple(sorted(counts, key=lambda split: (usual.get(split, 3), -counts[split], split)))


def _described(pair: Pair, folder: Path, classes: int | None) -> Record:
    if isinstance(pair.image, np.ndarray) or isinstance(pair.mask, np.ndarray):
        fix = "Write it with tiledseg.io.write_image and write_mask."
        raise invalid(FileError, pair.name, must="be files, not arrays", got="an array", fix=fix)
    if any(is_remote(path_text(path)) for path in (pair.image, *mask_files(pair))):
        fix = "Copy them there, or list them in a table, with layout=list."
        raise invalid(FileError, pair.name, must="be files beside the manifest", got="addresses", fix=fix)
    _, mask = load_both(pair, classes)
    labels, masks = mask.labels, mask_files(pair)
    counted = labels[labels != IGNORED] if pair.ignores else labels
    return Record(
        name=pair.name,
        image=_relative(pair.image, folder),
        masks=tuple(_relative(path, folder) for path in masks),
        group=pair.name,
        height=labels.shape[0],
        width=labels.shape[1],
        foreground=float(np.count_nonzero(counted) / max(1, counted.size)),
        digest=file_digest(pair.image),
        mask_digests=tuple(file_digest(path) for path in masks),
        mask_found=mask.found,
        ignored=1 - counted.size / labels.size,
        class_shares=_class_shares(counted),
        **{name: getattr(pair, name) for name in MaskConfig.model_fields},
        **pair.reading,
    )


def _class_shares(labels: AnyArray) -> tuple[float, ...]:
    """Return the share of each class from 1 on; nothing where there is one class."""
    counts = np.bincount(labels.ravel())[1:]
    return tuple((counts / max(1, labels.size)).tolist()) if len(counts) > 1 else ()


def _relative(path: PathLike, folder: PathLike) -> str:
    """Write a path relative to a folder, the same on every system."""
    try:
        return PurePath(os.path.relpath(path_text(path), path_text(folder, "folder"))).as_posix()
    except ValueError as error:
        must, fix = "be on the drive of the manifest", "Write the manifest beside the data."
        raise invalid(FileError, os.fspath(path), must=must, got=os.fspath(folder), fix=fix) from error
