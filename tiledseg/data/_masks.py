"""From the files of an image's masks to its labels."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

from tiledseg._validate import invalid, shown
from tiledseg.errors import ArrayError
from tiledseg.io import read_mask

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from tiledseg._types import PathLike
    from tiledseg.data._pairs import Pair

__all__ = ["mask_files", "read_labels"]

_MOST_LABELS = 255
_MOST_SHOWN = 5


def mask_files(pair: Pair) -> list[PathLike]:
    """List the files of a pair's mask."""
    if isinstance(pair.mask, tuple):
        return list(pair.mask)
    return [] if isinstance(pair.mask, np.ndarray) else [pair.mask]


def read_labels(pair: Pair) -> NDArray[np.uint8]:
    """Read the labels of a pair from its mask's files."""
    files = mask_files(pair)
    if pair.mask_parts == "instances" and len(files) > _MOST_LABELS:
        raise invalid(
            ArrayError,
            "mask",
            must=f"have at most {_MOST_LABELS} cells to be kept as instances",
            got=len(files),
            fix="Merge them with mask_parts=merged.",
        )
    labels: NDArray[np.uint8] | None = None
    for number, part in enumerate(_parts(files, pair), 1):
        if labels is None:
            labels = np.zeros_like(part)
        if part.shape != labels.shape:
            raise invalid(
                ArrayError,
                os.fspath(files[number - 1]),
                must=f"have the height and width of the image's first mask, {labels.shape}",
                got=part.shape,
                fix="Export all masks of an image at its size.",
            )
        if pair.mask_parts == "instances":
            labels[(labels == 0) & (part > 0)] = number
        else:
            np.maximum(labels, part, out=labels)
    if labels is None:
        raise invalid(ArrayError, "mask", must="have at least one file", got="none", fix="Name one.")
    return labels


def _parts(files: Sequence[PathLike], pair: Pair) -> Iterator[NDArray[np.uint8]]:
    for file in files:
        if pair.mask_parts == "classes":
            yield _classes(os.fspath(file), read_mask(file, threshold=None), pair.class_values)
        else:
            yield read_mask(file, threshold=pair.mask_threshold)


def _classes(name: str, values: NDArray[np.uint8], known: Sequence[int]) -> NDArray[np.uint8]:
    """Turn grey values into labels, 0 into 0, by a table of all 256."""
    table = np.full(256, _MOST_LABELS, np.uint8)
    table[[0, *known]] = np.arange(len(known) + 1)
    labels = np.asarray(table[values], np.uint8)
    strange = np.setdiff1d(values, [0, *known])
    if strange.size:
        text = ", ".join(str(value) for value in strange[:_MOST_SHOWN])
        raise invalid(
            ArrayError,
            name,
            must=f"have the grey values 0 and {shown(', '.join(map(str, known)))} alone",
            got=f"{text}{', …' if strange.size > _MOST_SHOWN else ''}",
            fix="Set class_values to the values of the classes.",
        )
    return labels
