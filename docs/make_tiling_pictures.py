"""Draw the pictures of `tiling.md` in docs/images: ``python docs/make_tiling_pictures.py``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

import tiledseg as ts

if TYPE_CHECKING:
    from tiledseg.tiling import Box

IMAGES = Path(__file__).parent / "images"
BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072b2", "#d55e00", "#009e73", "#8e44ad", "#8a949e"
COLOURS = (BLUE, ORANGE, GREEN, PURPLE)


def main() -> None:
    """Write the four pictures."""
    for draw in (frames, windows, receptive_field, seams):
        figure = draw()
        figure.savefig(
            IMAGES / f"{draw.__name__}.png", dpi=110, facecolor="white", metadata={"Software": None}
        )


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), layout="constrained")


def _box(axes: Any, box: Box, **look: Any) -> None:
    axes.add_patch(Rectangle((box.x0, box.y0), box.x1 - box.x0, box.y1 - box.y0, **look))


def frames() -> Figure:
    """Draw the boxes of one tile in the frame of the image, and in its own."""
    grid = ts.Tiler(ts.TilingConfig(tile_size=256, overlap=96)).grid((500, 700, 3))
    tile = grid[5]
    figure = _figure(9, 4)
    axes, own = figure.subplots(1, 2, width_ratios=(700, 330))
    axes.add_patch(Rectangle((0, 0), 700, 500, facecolor="#eef3f7", edgecolor="#33475b", lw=2))
    for other in grid:
        _box(axes, other.core_box, fill=False, edgecolor=GREY, lw=0.8, ls=":")
    parts = ((tile.read_box, BLUE, "read_box"), (tile.core_box, ORANGE, "core_box"))
    for box, colour, name in parts:
        _box(axes, box, facecolor=colour, alpha=0.18)
        _box(axes, box, fill=False, edgecolor=colour, lw=2)
        between = ": " if name == "read_box" else "\n"
        text = f"{name}{between}y {box.y0} to {box.y1}\nx {box.x0} to {box.x1}"
        axes.text(box.x0 + 6, box.y0 + 8, text, va="top", fontsize=8, color=colour)
    axes.set(xlim=(-8, 708), ylim=(508, -8), aspect="equal", xlabel="x in px", ylabel="y in px")
    axes.set_title("In the frame of the image", loc="left", fontsize=11)
    inner = tile.core_in_tile
    own.add_patch(Rectangle((0, 0), 256, 256, facecolor=BLUE, alpha=0.18))
    own.add_patch(Rectangle((0, 0), 256, 256, fill=False, edgecolor=BLUE, lw=2))
    _box(own, inner, facecolor=ORANGE, alpha=0.18)
    _box(own, inner, fill=False, edgecolor=ORANGE, lw=2)
    text = f"core_in_tile:\ny {inner.y0} to {inner.y1}\nx {inner.x0} to {inner.x1}"
    own.text(inner.x0 + 6, inner.y0 + 6, text, va="top", fontsize=8, color=ORANGE)
    own.set(xlim=(-6, 262), ylim=(262, -6), aspect="equal", xlabel="x in px", ylabel="y in px")
    own.set_title("In the frame of the tile", loc="left", fontsize=11)
    for ax in (axes, own):
        ax.spines[:].set_visible(False)
    return figure


def windows() -> Figure:
    """Draw the windows of an axis, and their sum."""
    length = 700
    figure = _figure(9, 4.6)
    rows = figure.subplots(3, 1, sharex=True, sharey=True)
    for ax, blend in zip(rows, ("crop", "linear", "gaussian"), strict=True):
        tiler = ts.Tiler(ts.TilingConfig(tile_size=256, overlap=96, blend=blend))
        grid = tiler.grid((256, length))
        total = np.zeros(length)
        for number in range(len(grid)):
            weight = _weights(grid, number)
            total += weight
            ax.fill_between(range(length), weight, color=COLOURS[number], alpha=0.25, step="mid")
            ax.plot(weight, color=COLOURS[number], lw=1.6)
        ax.plot(total, color="black", lw=1.2, ls="--")
        ax.set_title(blend, loc="left", fontsize=11)
        ax.set(ylim=(0, 1.15), yticks=(0, 0.5, 1), ylabel="weight")
        ax.spines[["top", "right"]].set_visible(False)
    rows[0].text(length, 1.03, "sum of all: exactly 1", ha="right", va="bottom", fontsize=9)
    rows[-1].set(xlabel="x in px", xlim=(0, length))
    return figure


def _weights(grid: ts.TileGrid, number: int) -> np.ndarray:
    """Return the weight of a tile along x: what is stitched if it alone returns one."""
    stitcher = ts.Stitcher(grid, n_channels=1)
    for tile in range(len(grid)):
        stitcher.add([tile], np.full((1, 256, 256, 1), float(tile == number), np.float32))
    return stitcher.merge()[128, :, 0].astype(float)


def receptive_field() -> Figure:
    """Draw what an output px depends on, in the middle of a tile and near its end."""
    figure = _figure(9, 3.1)
    axes = figure.subplots()
    halo, tile, start = 44, 256, 60
    axes.add_patch(Rectangle((0, 0), 420, 40, facecolor="#eef3f7", edgecolor="#33475b"))
    axes.text(8, 20, "image", va="center", fontsize=9, color="#33475b")
    axes.add_patch(Rectangle((start, 60), tile, 40, facecolor=BLUE, alpha=0.18))
    axes.add_patch(Rectangle((start, 60), tile, 40, fill=False, edgecolor=BLUE, lw=2))
    for left in (start, start + tile - halo):
        axes.add_patch(Rectangle((left, 60), halo, 40, facecolor=ORANGE, alpha=0.3))
        axes.text(left + halo / 2, 80, "halo", ha="center", va="center", fontsize=9, color="#8a3b00")
    axes.text(start + tile / 2, 92, "tile", ha="center", va="center", fontsize=9, color=BLUE)
    notes = (
        (start + 128, GREEN, "sees only px of the tile:\nequal to the whole image"),
        (start + tile - 14, ORANGE, "sees padding, where the\nimage goes on: differs"),
    )
    for x, colour, text in notes:
        axes.plot([x - halo, x, x + halo], [40, 130, 40], color=colour, lw=1.4)
        axes.add_patch(Rectangle((x - halo, 0), 2 * halo, 40, facecolor=colour, alpha=0.3))
        axes.plot(x, 130, "s", color=colour, ms=6)
        axes.text(x + 8, 136, text, fontsize=9, color=colour, va="center", ha="left")
    axes.text(start + 128, 20, "receptive field", ha="center", va="center", fontsize=9)
    axes.text(start - 8, 130, "output px", ha="right", va="center", fontsize=9)
    axes.set(xlim=(-4, 460), ylim=(-4, 152))
    axes.axis("off")
    return figure


def seams() -> Figure:
    """Draw a map with hard borders and a blended one: a network that reacts to where a tile ends."""
    y, x = np.mgrid[:320, :480].astype(np.float32)
    image = (128 + 90 * np.sin(x / 31) * np.cos(y / 27) + 0.2 * x)[..., np.newaxis]

    def predictor(tiles: np.ndarray) -> np.ndarray:
        """Subtract each tile's own mean, as a normalisation does."""
        return np.clip((tiles - tiles.mean(axis=(1, 2), keepdims=True)) / 255 + 0.45, 0, 1)

    figure = _figure(9, 3.1)
    for ax, (name, tiling) in zip(
        figure.subplots(1, 2),
        {
            "pasted side by side, no overlap": {"tile_size": 128, "overlap": 0, "blend": "crop"},
            "overlap of 64 px, gaussian": {"tile_size": 128, "overlap": 64, "blend": "gaussian"},
        }.items(),
        strict=True,
    ):
        ax.imshow(ts.tiled_predict(predictor, image, tiling)[..., 0], cmap="viridis", vmin=0, vmax=0.9)
        ax.set_title(name, loc="left", fontsize=11)
        ax.axis("off")
    return figure


if __name__ == "__main__":
    main()
