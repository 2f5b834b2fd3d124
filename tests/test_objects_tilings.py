"""Labels, table and GeoJSON of many maps: equal bit for bit, however the map arrives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

from tests.test_objects_labels import whole
from tiledseg.export import GeoJsonWriter, Style
from tiledseg.objects import ObjectsSink

if TYPE_CHECKING:
    from pathlib import Path


def spiral(size: int) -> np.ndarray:
    """Draw one line that winds inwards."""
    mask = np.zeros((size, size), np.uint8)
    for inset in range(0, size // 2, 4):
        mask[inset : size - inset, inset : size - inset] = 1
        mask[inset + 2 : size - 2 - inset, inset + 2 : size - 2 - inset] = 0
        mask[inset + 2 : inset + 4, inset + 1] = mask[inset + 2 : inset + 4, inset + 2] = 1
    return mask


def drawn(rng: np.random.Generator) -> np.ndarray:
    """Draw a map: noise, cells, a spiral or a checkerboard."""
    height, width = rng.integers(1, 50, 2).tolist()
    kind = rng.integers(5)
    if kind < 2:
        return (rng.random((height, width)) < rng.random()).astype(np.uint8)
    if kind == 2:
        return spiral(max(height, width, 5))
    if kind == 3:
        return (np.indices((height, width)).sum(axis=0) % 2).astype(np.uint8)
    mask = np.zeros((height, width), np.uint8)
    for _ in range(10):
        centre, radius = (int(rng.integers(width)), int(rng.integers(height))), int(rng.integers(1, 9))
        cv2.circle(mask, centre, radius, int(rng.random() < 0.8), -1)
    return mask


def settings(rng: np.random.Generator) -> dict[str, Any]:
    """Draw settings."""
    return {
        "connectivity": int(rng.choice([4, 8])),
        "fill_holes": bool(rng.random() < 0.3),
        "split": str(rng.choice(["none", "watershed"])),
        "keep_border": bool(rng.random() < 0.8),
        "min_area": int(rng.integers(1, 4)),
    }


def made(
    probs: np.ndarray,
    image: np.ndarray,
    config: dict[str, Any],
    blocks: list[tuple[slice, slice]],
    file: Path,
) -> tuple[np.ndarray, dict[str, np.ndarray], bytes]:
    """Make labels, table and GeoJSON of a map that arrives in blocks."""
    sink = ObjectsSink(probs.shape, probs.dtype, config, image=image)
    for block in blocks:
        sink[block] = probs[block]
    labels = np.empty(probs.shape, np.uint32)
    with GeoJsonWriter(file, Style()) as writer:
        table = sink.finish(labels, each=writer.add).table
    return labels, table, file.read_bytes()


def check(seed: int, folder: Path) -> None:
    """Compare a map that arrives at once with the same in bands and in blocks in any order."""
    rng = np.random.default_rng(seed)
    mask, config = drawn(rng), settings(rng)
    probs = np.where(mask, rng.uniform(0.5, 1, mask.shape), rng.uniform(0, 0.4, mask.shape)).astype(
        np.float32
    )
    image = rng.integers(0, 9, (*mask.shape, 2)).astype(rng.choice([np.uint8, np.float32]))
    height, width = mask.shape
    once = made(probs, image, config, [(slice(0, height), slice(0, width))], folder / "a.geojson")
    if config["min_area"] == 1 and config["keep_border"] and config["split"] == "none":
        covered = mask if not config["fill_holes"] else once[0] > 0
        np.testing.assert_array_equal(once[0], whole(covered.astype(np.uint8), config["connectivity"]))
    step, across = (int(rng.integers(1, 20)) for _ in range(2))
    bands = [(slice(top, min(top + step, height)), slice(0, width)) for top in range(0, height, step)]
    blocks = [
        (rows, slice(left, min(left + across, width)))
        for rows, _ in bands
        for left in range(0, width, across)
    ]
    order = rng.permutation(len(blocks))
    for parts in (bands, [blocks[place] for place in order]):
        labels, table, geojson = made(probs, image, config, parts, folder / "b.geojson")
        np.testing.assert_array_equal(labels, once[0])
        assert geojson == once[2]
        for name, column in once[1].items():
            np.testing.assert_array_equal(table[name], column, err_msg=name)


@pytest.mark.parametrize("seed", range(12))
def test_objects_do_not_depend_on_bands_blocks_and_their_order(seed, tmp_path):
    check(seed, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("hundred", range(12))
def test_objects_of_twelve_hundred_maps_do_not_depend_on_how_they_arrive(hundred, tmp_path):
    for seed in range(100 * hundred, 100 * (hundred + 1)):
        check(seed, tmp_path)
