"""Draw docs/images/architecture.svg: ``python docs/make_architecture_picture.py``."""

from __future__ import annotations

from html import escape
from pathlib import Path

TARGET = Path(__file__).parent / "images" / "architecture.svg"
WIDTH, ROW, GAP, LEFT = 900, 44, 8, 20
STEPS = (
    ("source", "io"),
    ("preprocess", "preprocess"),
    ("Tiler", "tiling"),
    ("network", "engine"),
    ("Stitcher", "tiling"),
    ("sink", "io"),
)
LAYERS = (
    (("cli", "one command per job"),),
    (("report", "pages, sheets, curves"),),
    (("evaluate", "images, model, metrics"),),
    (("train", "training loop, checkpoints"),),
    (("data", "pairs, splits, crops"), ("models", "networks, bundles"), ("samples", "generated images")),
    (("predict", "plan, prediction, files"),),
    (("export", "GeoJSON, COCO"),),
    (("objects", "maps to cells"),),
    (("engine", "networks ready to run"),),
    (("tiling", "grid, tiler, stitcher"), ("preprocess", "preparation of pixels")),
    (("io", "read and write files"),),
    (("metrics", "scores"), ("plots", "pictures")),
    (("config", "settings"),),
)


def box(x: float, y: float, width: float, title: str, text: str, colour: str) -> str:
    """Draw a box with a title and a few words."""
    return (
        f'<rect x="{x}" y="{y}" width="{width}" height="{ROW}" rx="6" fill="{colour}" stroke="#5b7083"/>'
        f'<text x="{x + width / 2}" y="{y + 18}" class="title">{escape(title)}</text>'
        f'<text x="{x + width / 2}" y="{y + 34}" class="text">{escape(text)}</text>'
    )


def path_of_an_image(top: float) -> list[str]:
    """Draw the six steps from left to right, with arrows between them."""
    wide = (WIDTH - 2 * LEFT - 5 * 22) / 6
    parts = []
    for place, (title, package) in enumerate(STEPS):
        x = LEFT + place * (wide + 22)
        parts.append(box(x, top, wide, title, package, "#fdebd0"))
        if place:
            y = top + ROW / 2
            parts.append(f'<path d="M{x - 20} {y} H{x - 4}" stroke="#444" marker-end="url(#tip)"/>')
    return parts


def layers(top: float) -> list[str]:
    """Draw the packages, one layer below the other."""
    parts = []
    for row, packages in enumerate(LAYERS):
        wide = (WIDTH - 2 * LEFT - GAP * (len(packages) - 1)) / len(packages)
        for place, (name, text) in enumerate(packages):
            x, y = LEFT + place * (wide + GAP), top + row * (ROW + GAP)
            parts.append(box(x, y, wide, name, text, "#e3eef7"))
    return parts


def main() -> None:
    """Write the picture."""
    first, second = 40, 150
    height = second + len(LAYERS) * (ROW + GAP) + 12
    style = (
        ".title{font:600 14px sans-serif;text-anchor:middle;fill:#1b2a38}"
        ".text{font:12px sans-serif;text-anchor:middle;fill:#3d4f60}"
        ".head{font:600 15px sans-serif;fill:#1b2a38}"
    )
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
            'aria-label="The path of one image, and the packages in layers">'
        ),
        f"<style>{style}</style>",
        (
            '<defs><marker id="tip" markerWidth="8" markerHeight="8" refX="6" refY="4" orient="auto">'
            '<path d="M0 0 L8 4 L0 8 z" fill="#444"/></marker></defs>'
        ),
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="{LEFT}" y="28" class="head">The path of one image</text>',
        *path_of_an_image(first),
        f'<text x="{LEFT}" y="{second - 14}" class="head">The packages: each imports only from below</text>',
        *layers(second),
        "</svg>",
    ]
    TARGET.write_text("\n".join(parts) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
