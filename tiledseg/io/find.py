"""Finding images in files and folders."""

from __future__ import annotations

import os
import re
import stat
import unicodedata
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING

from tiledseg._validate import invalid, items_of, listed, named, path_text
from tiledseg.errors import FileError
from tiledseg.io.ome_files import ome_set
from tiledseg.io.remote import as_path, is_remote
from tiledseg.io.slides import SLIDE_SUFFIXES, dicom_series
from tiledseg.io.zarr import is_zarr

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from tiledseg._types import PathLike

_SHOWN = 3
_AFTER_OME = {".tif", ".tiff", ".btf", ".tf2", ".tf8", ".zarr"}
_PATTERN = re.compile(r"[*?\[]")
_OME_TIFF = re.compile(r"\.ome\.(tiff?|btf|tf2|tf8)$", re.IGNORECASE)
_TIFFS = (".bif", ".btf", ".gtiff", ".lsm", ".ndpi", ".qptiff", ".scn", ".stk", ".svs", ".tf2", ".tf8")
_RASTERS = (".bmp", ".dib", ".jfif", ".jpe", ".jpeg", ".jpg", ".npy", ".png", ".tif", ".tiff", ".webp")
SUFFIXES = (*_RASTERS, *_TIFFS, ".vsi", *SLIDE_SUFFIXES)
"""Suffixes of the images in a folder, in lower case; upper case counts as well."""


def stem_of(path: PathLike) -> str:
    """Return the name of an image without its suffixes, `.ome` among them, in one Unicode form."""
    name = Path(path)
    if name.suffix.lower() == ".gz":  # of compressed outlines
        name = name.with_suffix("")
    is_ome = name.suffix.lower() in _AFTER_OME and name.stem.lower().endswith(".ome")
    return unicodedata.normalize("NFC", name.stem[:-4] if is_ome else name.stem)


def path_texts(paths: object, name: str) -> list[str]:
    """Return one path or several as a list of texts, a pattern such as ``a/*.tif`` as what it matches."""
    if isinstance(paths, str | os.PathLike):
        return _matched(path_text(paths, name))
    must, fix = "be a path or a sequence of paths", "Pass str or pathlib.Path."
    items = items_of(paths, name, must, fix, FileError)
    texts = [path_text(one, f"{name}[{place}]") for place, one in enumerate(items)]
    return [one for text in texts for one in _matched(text)]


def _matched(text: str) -> list[str]:
    """List what a pattern matches, in natural order, since Windows' shells do not; a path as it is."""
    if not _PATTERN.search(text) or is_remote(text) or os.path.lexists(text):
        return [text]
    matches = map(Path, glob(text, recursive=True))  # noqa: PTH207  Path.glob needs a folder
    found = [str(one) for one in sorted(matches, key=lambda one: (one.parent, _natural(one)))]
    if not found:
        must, fix = "be a path, or match one as a pattern", "Check the folder; [[] stands for [."
        raise invalid(FileError, named(text), must=must, got="no such file or folder", fix=fix)
    return found


def find_images(
    inputs: PathLike | Iterable[PathLike],
    *,
    recursive: bool = False,
    also: Sequence[str] = (),
) -> list[Path]:
    """List the images of paths and folders.

    A given file is listed whatever its suffix, and a zarr folder counts as a file. For a folder, the files
    with a suffix in ``SUFFIXES`` and the zarr folders are listed, without hidden ones, in natural order
    (``a2`` before ``a10``). A DICOM series, or an OME-TIFF of several files, is listed by its first
    file. A path with ``*``, ``?`` or ``[`` that does not exist is a pattern, in which ``**`` stands for
    folders within folders. An address, for example ``https://host/slide.svs``, is listed as it is. Links are
    followed; each folder is visited once, and each name in a folder is listed once. A dead link or a pipe
    with such a suffix is listed; reading it raises an error that says what is wrong.

    Parameters
    ----------
    inputs : path or iterable of paths
        Files, folders, and patterns such as ``images/*.tif``.
    recursive : bool
        Whether to look into folders within folders.
    also : sequence of str
        Suffixes of other files that are listed, too, in lower case.

    Returns
    -------
    list of Path
        In the order of `inputs`; never empty.

    Raises
    ------
    FileError
        If a path does not exist, a pattern matches nothing, a folder cannot be read, or there is no image.
    """
    advice = "" if recursive else "For subfolders, pass recursive=True."
    return images_in(inputs, recursive=recursive, also=also, advice=advice)


def images_in(
    inputs: PathLike | Iterable[PathLike],
    *,
    recursive: bool = False,
    also: Sequence[str] = (),
    advice: str = "",
) -> list[Path]:
    """List images as `find_images` does, with the caller's advice."""
    given = path_texts(inputs, "inputs")
    found: dict[str, Path] = {}
    visited: set[tuple[int, int]] = set()
    for text in given:
        for path in _images_of(as_path(text), visited, (*SUFFIXES, *also), recursive=recursive):
            found.setdefault(_place_of(path), path)
    if not found:
        got = ", ".join(map(_with_others, given)) or "no path"
        fix = f"Known suffixes: {', '.join((*also, *SUFFIXES))}. {advice}".rstrip()
        raise invalid(FileError, "inputs", must="name at least one image", got=got, fix=fix)
    return list(found.values())


def _with_others(folder: str) -> str:
    """Name a folder, and the first of the files in it, which are no images."""
    others = [entry.name for entry in _entries(Path(folder), set()) or () if entry.is_file()]
    return named(folder) + (f" with {listed(others, _SHOWN)}" if others else "")


def _place_of(path: Path) -> str:
    """Say where a file stands; links with other names are images of their own."""
    # a store of files by their content keeps equal images once, with a link for each
    return str(path) if is_remote(str(path)) else os.path.join(os.path.realpath(path.parent), path.name)  # noqa: PTH118


def _images_of(
    path: Path, visited: set[tuple[int, int]], suffixes: Sequence[str], *, recursive: bool
) -> Iterator[Path]:
    alone = is_remote(str(path)) or is_zarr(str(path))
    entries = None if alone else _entries(path, visited)
    if entries is None:
        yield path
        return
    series: set[str] = set()
    for entry in entries:
        if _is_image_folder(entry):
            yield entry
        elif os.path.isdir(entry):  # noqa: PTH112  unlike Path.is_dir, False for a loop of links
            if recursive:
                yield from _images_of(entry, visited, suffixes, recursive=True)
        elif entry.name.lower().endswith(tuple(suffixes)) and _is_new(entry, series):
            yield entry


def _is_image_folder(path: Path) -> bool:
    """Say whether a path is a zarr; of a folder that may not be entered, by its name."""
    try:
        return is_zarr(str(path))
    except FileError:  # which the reader then states
        return path.suffix.lower() == ".zarr"


def _is_new(path: Path, series: set[str]) -> bool:
    """Say whether a file is whole, or the first of a DICOM series or an OME-TIFF of several files."""
    found = dicom_series(path) if path.suffix.lower() == ".dcm" else None
    if _OME_TIFF.search(path.name):
        found = ome_set(path)
    if found is None:
        return True
    is_first = found not in series
    series.add(found)
    return is_first


def _entries(path: Path, visited: set[tuple[int, int]]) -> list[Path] | None:
    """List a folder, empty if it was visited before; None where `path` is not a folder."""
    try:
        status = path.stat()
        if not stat.S_ISDIR(status.st_mode):
            return None
        if (status.st_dev, status.st_ino) in visited:
            return []
        visited.add((status.st_dev, status.st_ino))
        return sorted((entry for entry in path.iterdir() if not entry.name.startswith(".")), key=_natural)
    except OSError as error:
        got, must = error.strerror or str(error), "be a readable file or folder"
        raise invalid(FileError, named(path), must=must, got=got, fix="Check the path.") from error


def _natural(path: Path) -> tuple[list[tuple[int, str]], str]:
    """Return a sort key that compares numbers in a name by their value, and the rest as text."""
    parts = re.split(r"(\d+)", path.name.casefold())
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts], path.name
