"""write_labels: a label map in the OME-Zarr of its own image, beside the image's levels."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tiledseg._arrays import dtype_of, read_region
from tiledseg._lazy import extra
from tiledseg._storage import (
    check_writable,
    exists,
    file_lock,
    is_file,
    is_folder,
    json_of,
    new_folder,
    open_regular,
    raise_unwritable,
    sync_folder,
    write_text,
)
from tiledseg._validate import instance_of, invalid, named, path_text
from tiledseg.errors import ArrayError, FileError, SettingError
from tiledseg.io.open import open_image
from tiledseg.io.stores import TILE
from tiledseg.io.zarr import is_zarr

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tiledseg._types import PathLike, Source

_FOLDER = "labels"
_NAME = re.compile(r"(?!__)[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")
_RESERVED = {"zarr.json"}


def write_labels(path: PathLike, name: str, labels: Source) -> Path:
    """Write a label map into the OME-Zarr of its own image, as ``labels/NAME``.

    The image itself is not changed: no file of its px is opened for writing. Where the metadata of all its
    nodes are consolidated in one file, that file is replaced by one that lists the map, too. The map is
    written under a hidden name, gets its own when it is whole, and is then listed in the metadata of
    ``labels``. It has as many levels as the image, of the same sizes; a smaller level takes the label at the
    centre of each px. It is of OME-Zarr 0.5 or 0.4, as the image is.

    Parameters
    ----------
    path : str or PathLike
        The folder of the image, an OME-Zarr on a local disk.
    name : str
        Name of the map: letters, digits, ``_``, ``-`` and ``.``. A name that exists already is refused.
    labels : array_like
        (H, W) integers from 0, of the image's height and width: an array, or an open file, which is read
        region by region.

    Returns
    -------
    Path
        The folder of the label map.

    Raises
    ------
    FileError
        If the image is no OME-Zarr, has this label map already, is written to by another run, or cannot be
        written to.
    ArrayError
        If the labels have another size than the image, or are no integers.
    SettingError
        If the name cannot be used, or zarr is not installed.

    See Also
    --------
    create_image : A label map in a file of its own.

    Examples
    --------
    >>> import numpy as np
    >>> from tiledseg.io import create_image, open_image
    >>> path = getfixture("tmp_path") / "image.ome.zarr"
    >>> with create_image(path, (300, 200), np.uint8) as out:
    ...     out[0:300] = np.zeros((300, 200), np.uint8)
    >>> folder = write_labels(path, "cells", np.eye(300, 200, dtype=np.uint8))
    >>> with open_image(folder) as image:
    ...     image[0:2, 0:2].tolist()
    [[1, 0], [0, 1]]
    """
    image = check_labels_writable(path, name)
    with open_image(image) as source:
        shape, levels = source.shape[:2], source.levels
    _check_labels(labels, shape)
    sizes = []
    for level in range(len(levels)):
        with open_image(image, level=level) as source:
            sizes.append(source)
    folder = image / _FOLDER
    target = folder / name
    with file_lock(_lock_of(folder), target):
        check_labels_writable(path, name)
        with new_folder(target) as part:
            _write(part, name, labels, image, sizes)
        _list(folder, name, _format_of(image))
        _consolidate(image)
        sync_folder(folder)
    return target


def check_labels_writable(path: PathLike, name: str) -> Path:
    """Check, before anything is computed, that a label map of a name can be written into an image."""
    extra("zarr", "zarr")
    instance_of(str, name, "name", 'Use "cells", for example.')
    if not _NAME.fullmatch(name) or name in _RESERVED:
        must = "be letters, digits, _, - and ."
        raise invalid(SettingError, "name", must=must, got=repr(name), fix='Use "cells", for example.')
    image = Path(os.path.realpath(path_text(path)))
    _check_image(image, named(path))
    target = image / _FOLDER / name
    if os.path.lexists(target):
        fix = "Choose another name: what an image holds is never replaced."
        raise invalid(FileError, named(path), must=f"not hold {_FOLDER}/{name} yet", got="one", fix=fix)
    check_writable(image / _FOLDER if exists(image / _FOLDER) else image, keep=True)
    return image


def holds_labels(path: PathLike, name: str) -> bool:
    """Say whether an image lists a whole label map of a name."""
    folder = Path(os.path.realpath(path_text(path))) / _FOLDER
    if not is_folder(folder / name):
        return False
    attributes = _attributes(folder)
    return name in attributes.get("ome", attributes).get("labels", [])


def _check_image(image: Path, name: str) -> None:
    if not is_zarr(str(image)):
        fix = "Write the map to a file of its own with mask_format=ome-zarr."
        raise invalid(FileError, name, must="be an OME-Zarr on a local disk", got="another file", fix=fix)
    attributes = _attributes(image)
    ome = attributes.get("ome", attributes)
    if not isinstance(ome, dict) or "multiscales" not in ome:
        fix = "Name the image in it, for example its folder 0."
        raise invalid(FileError, name, must="be an OME-Zarr image", got="a group without one", fix=fix)
    if "image-label" in ome:
        fix = "Name the image that it belongs to."
        raise invalid(FileError, name, must="be an image", got="a label map", fix=fix)
    for group in _groups_of(image):
        _consolidated(group)


def _attributes(folder: Path) -> dict[str, Any]:
    """Read the attributes of a group."""
    if is_file(folder / "zarr.json"):
        found: Any = _metadata_in(folder / "zarr.json").get("attributes", {})
    else:
        found = _metadata_in(folder / ".zattrs") if is_file(folder / ".zattrs") else {}
    if not isinstance(found, dict):
        raise _unreadable(folder, f"attributes of type {type(found).__name__}")
    return found


def _metadata_in(path: Path) -> dict[str, Any]:
    try:
        with open_regular(path) as file:
            found = json_of(file.read(), nan=True)
    except (OSError, ValueError) as error:
        raise _unreadable(path.parent, error) from error
    if not isinstance(found, dict):
        raise _unreadable(path.parent, f"{path.name} with a {type(found).__name__}")
    return found


def _unreadable(folder: Path, got: object) -> FileError:
    fix = "Copy or export it again."
    return invalid(FileError, named(folder), must="have readable metadata", got=str(got), fix=fix)


def _format_of(image: Path) -> int:
    return 3 if is_file(image / "zarr.json") else 2


def _lock_of(folder: Path) -> Path:
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise_unwritable(named(folder), error)
    return folder / ".tiledseg-lock"


def _check_labels(labels: Source, shape: tuple[int, ...]) -> None:
    found, kind = tuple(labels.shape), dtype_of(labels.dtype)
    if found != shape:
        fix = "Predict level 0 of the image."
        raise invalid(ArrayError, "labels", must=f"have the image's size {shape}", got=found, fix=fix)
    if kind.kind not in "biu":
        fix = "Convert them, for example with astype(numpy.uint32)."
        raise invalid(ArrayError, "labels", must="be integers", got=str(labels.dtype), fix=fix)


def _write(part: Path, name: str, labels: Source, image: Path, levels: list[Any]) -> None:
    """Write all levels, one chunk after the other, and the metadata last."""
    zarr = extra("zarr", "zarr")
    version = _format_of(image)
    dtype = np.dtype(np.uint8 if np.dtype(labels.dtype).kind == "b" else labels.dtype).newbyteorder("=")
    zarr.open_group(store=str(part), mode="a", zarr_format=version)
    layout: dict[str, Any] = {"dimension_names": ["y", "x"]} if version == 3 else {"dimension_separator": "/"}
    for number, level in enumerate(levels):
        array = zarr.open_array(
            store=str(part / str(number)),
            mode="a",
            zarr_format=version,
            shape=level.shape[:2],
            dtype=dtype,
            chunks=(TILE, TILE),
            **layout,
        )
        for rows, columns, block in _blocks(labels, level.shape[:2]):
            if block.size and dtype.kind == "i" and int(block.min()) < 0:
                fix = "Renumber them from 0, the background."
                raise invalid(ArrayError, "labels", must="be 0 or more", got=int(block.min()), fix=fix)
            array[rows, columns] = block.astype(dtype, copy=False)
    _write_attributes(part, version, _metadata(name, levels, version))


def _blocks(labels: Source, shape: tuple[int, int]) -> Iterator[tuple[slice, slice, Any]]:
    """Give the chunks of a level: of each px the label at its centre."""
    (height, width), whole = shape, labels.shape
    for y in range(0, height, TILE):
        for x in range(0, width, TILE):
            rows, columns = slice(y, min(y + TILE, height)), slice(x, min(x + TILE, width))
            down, across = (
                (2 * np.arange(one.start, one.stop) + 1) * large // (2 * small)
                for one, small, large in zip((rows, columns), shape, whole, strict=True)
            )
            top, left = int(down[0]), int(across[0])
            read = read_region(labels, slice(top, int(down[-1]) + 1), slice(left, int(across[-1]) + 1))
            yield rows, columns, read[np.ix_(down - top, across - left)]


def _metadata(name: str, levels: list[Any], version: int) -> dict[str, Any]:
    """Describe the levels by the px sizes of the image, and say which image the labels belong to."""
    size, origin = levels[0].pixel_size, levels[0].placement and levels[0].placement.origin
    unit = {"unit": "micrometer"} if size else {}
    datasets = []
    for number, level in enumerate(levels):
        ratio = [whole / one for whole, one in zip(levels[0].shape[:2], level.shape[:2], strict=True)]
        scale = [level.pixel_size.y, level.pixel_size.x] if size and level.pixel_size else ratio
        steps: list[dict[str, Any]] = [{"type": "scale", "scale": scale}]
        if origin and size:
            steps.append({"type": "translation", "translation": list(origin)})
        datasets.append({"path": str(number), "coordinateTransformations": steps})
    axes = [{"name": name, "type": "space"} | unit for name in "yx"]
    image: dict[str, Any] = {"name": name, "axes": axes, "datasets": datasets}
    label = {"source": {"image": "../../"}}
    if version == 3:
        return {"ome": {"version": "0.5", "multiscales": [image], "image-label": label}}
    return {"multiscales": [{"version": "0.4"} | image], "image-label": {"version": "0.4"} | label}


def _write_attributes(folder: Path, version: int, attributes: dict[str, Any]) -> None:
    if version == 3:
        group = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
        write_text(folder / "zarr.json", json.dumps(group, indent=2))
        return
    if not exists(folder / ".zgroup"):
        write_text(folder / ".zgroup", json.dumps({"zarr_format": 2}))
    write_text(folder / ".zattrs", json.dumps(attributes, indent=2))


def _list(folder: Path, name: str, version: int) -> None:
    """Add a label map to the list of an image's label maps."""
    attributes = _attributes(folder)
    ome = attributes.setdefault("ome", {"version": "0.5"}) if version == 3 else attributes
    ome["labels"] = [*ome.get("labels", []), name]
    _write_attributes(folder, version, attributes)


def _groups_of(image: Path) -> Iterator[Path]:
    """List an image and the groups that it lies in, as in a plate; each may have consolidated metadata."""
    folder = image.absolute()
    yield folder
    for group in folder.parents:
        if not is_zarr(str(group)):
            return
        yield group


def _consolidated(group: Path) -> tuple[Path, dict[str, Any], dict[str, Any]] | None:
    """Read the metadata of all nodes that stand in one file of a group: the file, all of it, the nodes."""
    if _format_of(group) == 3:
        path, key = group / "zarr.json", "consolidated_metadata"
    else:
        path, key = group / ".zmetadata", ""
    if not exists(path):
        return None
    whole = _metadata_in(path)
    stated = whole.get(key) if key else whole
    if stated is None:
        return None
    nodes = stated.get("metadata") if isinstance(stated, dict) else None
    if not isinstance(nodes, dict):
        raise _unreadable(group, "consolidated metadata without a list of nodes")
    return path, whole, nodes


def _consolidate(image: Path) -> None:
    """Copy the metadata of all label maps to where those of the whole image are consolidated."""
    for group in _groups_of(image):
        found = _consolidated(group)
        if found is not None:
            _consolidate_in(group, image.absolute() / _FOLDER, *found)


def _consolidate_in(
    group: Path, labels: Path, path: Path, whole: dict[str, Any], nodes: dict[str, Any]
) -> None:
    """Replace the metadata of an image's label maps among the consolidated ones of a group."""
    start = labels.relative_to(group).as_posix()
    for name in [name for name in nodes if f"{name}/".startswith(f"{start}/")]:
        del nodes[name]
    version = _format_of(group)
    for folder in _nodes(labels):
        place = folder.relative_to(group).as_posix()
        if version == 3:
            nodes[place] = _metadata_in(folder / "zarr.json")
            continue
        for part in (".zgroup", ".zarray", ".zattrs"):
            if is_file(folder / part):
                nodes[f"{place}/{part}"] = _metadata_in(folder / part)
    write_text(path, json.dumps(whole, indent=2))


def _nodes(folder: Path) -> Iterator[Path]:
    """List a group, and the groups and arrays in it."""
    yield folder
    if exists(folder / ".zarray"):
        return
    for inner in sorted(folder.iterdir()):
        if not inner.name.startswith(".") and not inner.is_symlink() and is_zarr(str(inner)):
            yield from _nodes(inner)
